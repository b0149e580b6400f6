//! A manifest (YAML or JSON) to a Pod. A field that the Pod does not have is an error: it would be ignored silently.

use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

/// Parses; errors give line and column where the parser knows them.
pub fn parse(content: &[u8]) -> Result<Pod, String> {
    let text = std::str::from_utf8(content).map_err(|error| format!("not UTF-8: {error}"))?;
    let source: Value = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    if !source.is_object() {
        return Err("not a Pod: the file holds no mapping".to_owned());
    }
    for (key, wanted) in [("apiVersion", "v1"), ("kind", "Pod")] {
        match source.get(key).and_then(Value::as_str) {
            Some(found) if found == wanted => {}
            Some(found) => return Err(format!("{key} is {found:?}, must be {wanted:?}")),
            None => return Err(format!("{key} is missing, must be {wanted:?}")),
        }
    }
    let pod: Pod = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    let known = serde_json::to_value(&pod).map_err(|error| error.to_string())?;
    match unknown(&source, &known, "") {
        None => Ok(pod),
        Some(path) => {
            let line = line_of(text, path.rsplit('.').next().unwrap_or(&path));
            let at = line.map_or_else(String::new, |line| format!("line {line}: "));
            Err(format!("{at}unknown field {path}"))
        }
    }
}

/// The first field of the source that did not survive.
fn unknown(source: &Value, known: &Value, path: &str) -> Option<String> {
    match (source, known) {
        (Value::Object(source), Value::Object(known)) => source.iter().find_map(|(key, value)| {
            let at = if path.is_empty() {
                key.clone()
            } else {
                format!("{path}.{key}")
            };
            match known.get(key) {
                Some(known) => unknown(value, known, &at),
                // An explicit null says nothing.
                None => (!value.is_null()).then_some(at),
            }
        }),
        (Value::Array(source), Value::Array(known)) => {
            let both = source.iter().zip(known).enumerate();
            both.into_iter()
                .find_map(|(i, (s, k))| unknown(s, k, &format!("{path}[{i}]")))
        }
        _ => None,
    }
}

/// The first line that has this key; good enough to find a misspelt word.
fn line_of(text: &str, key: &str) -> Option<usize> {
    let found = text.lines().position(|line| {
        let bare = line.trim_start_matches([' ', '-', '"', '{', '\t']);
        bare.strip_prefix(key)
            .is_some_and(|rest| rest.trim_start_matches('"').trim_start().starts_with(':'))
    });
    found.map(|index| index + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        parse(text.as_bytes()).unwrap_err()
    }

    #[test]
    fn numbers_where_quantities_belong_are_read_as_people_write_them() {
        let pod = parse(
            b"apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers:\n  - name: c\n    image: i\n    resources: {limits: {cpu: 1, memory: 64Mi}}\n",
        )
        .unwrap();
        let limits = pod.spec.unwrap().containers[0]
            .resources
            .clone()
            .unwrap()
            .limits
            .unwrap();
        assert_eq!(limits["cpu"].0, "1");
    }

    #[test]
    fn a_misspelt_field_is_named_with_its_line() {
        let text = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\nspec:\n  containers:\n  - name: c\n    imge: i\n";
        assert_eq!(error(text), "line 8: unknown field spec.containers[0].imge");
    }

    #[test]
    fn another_kind_is_refused() {
        assert_eq!(
            error("apiVersion: v1\nkind: Service\n"),
            r#"kind is "Service", must be "Pod""#
        );
        assert_eq!(
            error("metadata: {}\n"),
            r#"apiVersion is missing, must be "v1""#
        );
        assert!(error("- a\n").contains("no mapping"));
    }

    #[test]
    fn broken_yaml_gives_the_place() {
        let text = error("apiVersion: v1\nkind: [Pod\n");
        assert!(text.contains("line"), "{text}");
    }
}
