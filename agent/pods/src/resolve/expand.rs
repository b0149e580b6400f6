//! `$(NAME)` in commands, arguments, environment values and sub-paths.
//!
//! `$(NAME)` is replaced if NAME is known and left as it is otherwise; `$$` is a dollar sign; anything else is literal.

/// Expands with `lookup`; names it does not know stay literal.
pub fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut missing = Vec::new();
    expand_noting(text, lookup, &mut missing)
}

/// The same, listing the names that were not known.
pub fn expand_noting(
    text: &str,
    lookup: impl Fn(&str) -> Option<String>,
    missing: &mut Vec<String>,
) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        match rest.as_bytes().first() {
            Some(b'$') => {
                out.push('$');
                rest = &rest[1..];
            }
            Some(b'(') => rest = reference(rest, &lookup, &mut out, missing),
            _ => out.push('$'),
        }
    }
    out.push_str(rest);
    out
}

/// `rest` starts with the parenthesis; what follows the reference is returned.
fn reference<'a>(
    rest: &'a str,
    lookup: &impl Fn(&str) -> Option<String>,
    out: &mut String,
    missing: &mut Vec<String>,
) -> &'a str {
    let Some(end) = rest.find(')') else {
        out.push_str("$(");
        return &rest[1..];
    };
    let name = &rest[1..end];
    match lookup(name) {
        Some(value) => out.push_str(&value),
        None => {
            missing.push(name.to_owned());
            out.push_str("$(");
            out.push_str(name);
            out.push(')');
        }
    }
    &rest[end + 1..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expansion_follows_the_api() {
        let check = |text: &str, expected: &str| {
            let lookup = |name: &str| (name == "A").then(|| "1".to_owned());
            assert_eq!(expand(text, lookup), expected, "{text}");
        };
        check("x$(A)y", "x1y");
        check("$(B)", "$(B)");
        check("$$(A)", "$(A)");
        check("$$$(A)", "$1");
        check("$A $", "$A $");
        check("$(A", "$(A");
        check("$()", "$()");
        check("$(A)$(A)", "11");
        check("é$(A)é", "é1é");
    }
}
