//! Reading back what the crate writes, as strictly as a scraper does.

use std::collections::BTreeSet;

/// One sample of a text page.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) labels: Vec<(String, String)>,
    pub(crate) value: String,
    pub(crate) at: Option<i64>,
}

/// The samples of a page in the text format 0.0.4. Panics where a scraper would refuse it: a line that is no sample, a value that is no
/// number, a series twice, a sample outside its family.
pub(crate) fn samples(page: &[u8]) -> Vec<Line> {
    let page = std::str::from_utf8(page).expect("a page is UTF-8");
    let (mut found, mut seen, mut family) = (Vec::new(), BTreeSet::new(), "");
    for text in page.split_terminator('\n') {
        if let Some(head) = text.strip_prefix("# TYPE ") {
            family = head.split(' ').next().unwrap_or_default();
        }
        if text.starts_with('#') {
            continue;
        }
        let line = line(text).unwrap_or_else(|| panic!("no sample: {text:?}"));
        assert_eq!(line.name, family, "{text}");
        let series = (line.name.clone(), line.labels.clone());
        assert!(seen.insert(series), "twice: {text}");
        assert!(line.value.parse::<f64>().is_ok(), "no number: {text}");
        found.push(line);
    }
    found
}

fn line(text: &str) -> Option<Line> {
    let end = text.find(['{', ' '])?;
    let (name, mut rest) = text.split_at(end);
    let mut labels = Vec::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        while !rest.starts_with('}') {
            let (label, after) = rest.split_once("=\"")?;
            let (value, after) = quoted(after)?;
            labels.push((label.to_owned(), value));
            rest = after.strip_prefix(',').unwrap_or(after);
        }
        rest = rest.strip_prefix('}')?;
    }
    let mut words = rest.strip_prefix(' ')?.split(' ');
    let value = words.next()?.to_owned();
    let at = words.next().map(str::parse).transpose().ok()?;
    let known = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    (known && words.next().is_none()).then(|| Line {
        name: name.to_owned(),
        labels,
        value,
        at,
    })
}

/// A label's value up to its closing quote, and what is behind.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, text.get(at + 1..)?)),
            '\\' => value.push(match chars.next()?.1 {
                'n' => '\n',
                c @ ('"' | '\\') => c,
                _ => return None,
            }),
            other => value.push(other),
        }
    }
    None
}

/// Indented, so that the golden reads.
pub(crate) fn pretty(json: &[u8]) -> String {
    let (mut out, mut depth, mut quoted, mut last) = (String::new(), 0usize, false, ' ');
    for c in String::from_utf8(json.to_vec()).unwrap().chars() {
        quoted ^= c == '"' && last != '\\';
        match c {
            '}' | ']' if !quoted => {
                depth -= 1;
                out += &format!("\n{}{c}", " ".repeat(depth));
            }
            '{' | '[' if !quoted => {
                depth += 1;
                out += &format!("{c}\n{}", " ".repeat(depth));
            }
            ',' if !quoted => out += &format!(",\n{}", " ".repeat(depth)),
            other => out.push(other),
        }
        last = c;
    }
    out + "\n"
}
