//! What a row is about: a cgroup, and whose it is.

use crate::expo;

/// What kind of cgroup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// The root group: the node.
    Root,
    /// A group of the hierarchy: `/kubepods`, `/runtime`.
    #[default]
    Group,
    /// A pod's group.
    Pod,
    /// A pod's sandbox.
    Sandbox,
    /// A container.
    Container,
}

/// A cgroup with its labels.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Subject {
    /// What it is.
    pub kind: Kind,
    /// The group's path, `/kubepods/burstable/pod…/…`: the `id` label.
    pub cgroup: String,
    /// The runtime's id of the sandbox or container; else empty.
    pub name: String,
    /// The image; else empty.
    pub image: String,
    /// The pod's name; empty for the hierarchy.
    pub pod: String,
    /// Its namespace.
    pub namespace: String,
    /// Its uid.
    pub uid: String,
    /// The container's name; empty for all but containers.
    pub container: String,
    /// When the runtime made it, nanoseconds since 1970. The group's own time where nobody else knows.
    pub created_ns: Option<i64>,
    /// When it was started, nanoseconds since 1970.
    pub started_ns: Option<i64>,
    /// Of a pod: whether a container of it was ever started.
    pub began: bool,
    /// The six labels of cAdvisor, written out: they are most of a scrape's text.
    pub labels: Box<str>,
    /// `container`, `namespace`, `pod`, or the pod's two, for `/metrics/resource`.
    pub short: Box<str>,
}

impl Subject {
    /// Writes the labels out. To be called once the other fields are set.
    #[must_use]
    pub fn finished(mut self) -> Self {
        let mut labels = Vec::new();
        let all = [
            ("container", &self.container),
            ("id", &self.cgroup),
            ("image", &self.image),
            ("name", &self.name),
            ("namespace", &self.namespace),
            ("pod", &self.pod),
        ];
        expo::labels(&mut labels, &all.map(|(n, v)| (n, v.as_str())));
        self.labels = String::from_utf8_lossy(&labels).into();
        labels.clear();
        if self.kind == Kind::Container {
            expo::labels(&mut labels, &[("container", &self.container)]);
            labels.push(b',');
        }
        let pod = [("namespace", &*self.namespace), ("pod", &*self.pod)];
        expo::labels(&mut labels, &pod);
        self.short = String::from_utf8_lossy(&labels).into();
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strange_names_are_escaped_once() {
        let subject = Subject {
            kind: Kind::Container,
            cgroup: "/k/a\"b\\c\nd".into(),
            container: "web".into(),
            pod: "p".into(),
            namespace: "n".into(),
            ..Subject::default()
        }
        .finished();
        assert_eq!(
            &*subject.labels,
            r#"container="web",id="/k/a\"b\\c\nd",image="",name="",namespace="n",pod="p""#
        );
        assert_eq!(&*subject.short, r#"container="web",namespace="n",pod="p""#);
    }
}
