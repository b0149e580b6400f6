//! Names that make a machine itself: node name, bootstrap token, CA key hash. Parsed once, trusted afterwards.

use std::fmt;

/// A kubeadm-style bootstrap token, `abcdef.0123456789abcdef`. `Debug` and `Display` show the id only.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    id: String,
    secret: String,
}

impl Token {
    /// Parses `[a-z0-9]{6}.[a-z0-9]{16}`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let ok = |s: &str, n: usize| {
            s.len() == n
                && s.bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        };
        match text.split_once('.') {
            Some((id, secret)) if ok(id, 6) && ok(secret, 16) => {
                Ok(Self { id: id.to_owned(), secret: secret.to_owned() })
            }
            _ => Err("not a bootstrap token: expected 6 and 16 lower-case letters or digits joined by a dot, as `kubeadm token create` prints it".to_owned()),
        }
    }

    /// The public part, which names the Secret `bootstrap-token-<id>`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The secret part, which signs the cluster-info ConfigMap.
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// The whole token, as sent in the `Authorization` header.
    pub fn bearer(&self) -> String {
        format!("{}.{}", self.id, self.secret)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.…", self.id)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.…", self.id)
    }
}

/// SHA-256 of a CA's SubjectPublicKeyInfo, written `sha256:<64 hex digits>`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CaHash(pub [u8; 32]);

impl CaHash {
    /// Parses the form that `kubeadm` prints.
    pub fn parse(text: &str) -> Result<Self, String> {
        const WANT: &str = "not a CA certificate hash: expected `sha256:` and 64 hex digits";
        let hex = text.strip_prefix("sha256:").ok_or(WANT)?;
        if hex.len() != 64 || !hex.is_ascii() {
            return Err(WANT.to_owned());
        }
        let mut bytes = [0; 32];
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).map_err(|_| WANT)?;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for CaHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// Checks a node name: an RFC 1123 subdomain of at most 253 characters.
pub fn check_node_name(name: &str) -> Result<(), String> {
    let label = |l: &str| {
        !l.is_empty()
            && l.len() <= 63
            && l.bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    if name.len() <= 253 && name.split('.').all(label) {
        Ok(())
    } else {
        Err("not a node name: lower-case letters, digits, `-` and `.`, each part of 1 to 63 characters starting and ending with a letter or digit (RFC 1123)".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_shows_only_its_id() {
        let token = Token::parse("abcdef.0123456789abcdef").unwrap();
        assert_eq!(format!("{token} {token:?}"), "abcdef.… abcdef.…");
        assert_eq!(token.bearer(), "abcdef.0123456789abcdef");
        assert!(Token::parse("ABCDEF.0123456789abcdef").is_err());
        assert!(Token::parse("abcdef0123456789abcdef").is_err());
    }

    #[test]
    fn a_ca_hash_round_trips_and_refuses_other_algorithms() {
        let text = format!("sha256:{}", "0a".repeat(32));
        assert_eq!(CaHash::parse(&text).unwrap().to_string(), text);
        assert!(CaHash::parse("sha512:00").is_err());
        assert!(CaHash::parse(&format!("sha256:{}", "zz".repeat(32))).is_err());
    }

    #[test]
    fn node_names_follow_rfc_1123() {
        assert!(check_node_name("edge-7.shop.example").is_ok());
        for bad in ["", "Edge", "-a", "a-", "a..b", "a_b"] {
            assert!(check_node_name(bad).is_err(), "{bad:?}");
        }
    }
}
