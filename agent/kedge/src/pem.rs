//! PEM texts of several trust bundles as one: each certificate once, what stands between them left out (KEP-3257).

const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";

/// The blocks of all texts in order, each once.
pub fn joined(texts: impl IntoIterator<Item = String>) -> String {
    let mut blocks: Vec<String> = Vec::new();
    for text in texts {
        let mut block: Option<String> = None;
        for line in text.lines().map(str::trim_end) {
            if line.starts_with(BEGIN) {
                block = Some(String::new());
            }
            let Some(open) = &mut block else { continue };
            open.push_str(line);
            open.push('\n');
            if line.starts_with(END) {
                blocks.extend(block.take().filter(|done| !blocks.contains(done)));
            }
        }
    }
    blocks.concat()
}

#[cfg(test)]
mod tests {
    use super::joined;

    const A: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    const B: &str = "-----BEGIN CERTIFICATE-----\nBBBB\n-----END CERTIFICATE-----\n";

    #[test]
    fn each_certificate_comes_once_and_nothing_else() {
        let texts = [
            format!("a comment\n{A}\n{}", B.replace('\n', "\r\n")),
            format!("{B}{A}-----BEGIN CERTIFICATE-----\ncut short"),
        ];
        assert_eq!(joined(texts), format!("{A}{B}"));
        assert_eq!(joined([String::new()]), "");
    }
}
