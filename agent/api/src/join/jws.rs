//! Detached JWS signatures (RFC 7515, appendix F) of `cluster-info`: HS256 with the secret half of a bootstrap token.
//!
//! In: `header..signature`, the content, the token. Out: whether the token's owner signed exactly this content. Pure.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use kedge_machine::identity::Token;
use ring::hmac;
use serde::Deserialize;

/// Why a signature is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwsError {
    #[error("not a detached JWS: {0}")]
    Malformed(&'static str),
    #[error("signed with {0:?}, expected HS256")]
    Algorithm(String),
    #[error("signed by key {0:?}, expected the token's id")]
    KeyId(String),
    #[error("the signature does not match")]
    Mismatch,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: String,
}

/// Checks `detached` over `content`.
pub fn verify(detached: &str, content: &[u8], token: &Token) -> Result<(), JwsError> {
    let parts: Vec<&str> = detached.split('.').collect();
    let [header_text, "", signature] = parts.as_slice() else {
        return Err(JwsError::Malformed("expected header..signature"));
    };
    let header = URL_SAFE_NO_PAD
        .decode(header_text)
        .map_err(|_| JwsError::Malformed("the header is not base64url"))?;
    let header: Header = serde_json::from_slice(&header)
        .map_err(|_| JwsError::Malformed("the header is not JSON"))?;
    let signature = URL_SAFE_NO_PAD
        .decode(signature)
        .map_err(|_| JwsError::Malformed("the signature is not base64url"))?;
    if header.alg != "HS256" {
        return Err(JwsError::Algorithm(header.alg));
    }
    if header.kid != token.id() {
        return Err(JwsError::KeyId(header.kid));
    }
    let key = hmac::Key::new(hmac::HMAC_SHA256, token.secret().as_bytes());
    let signed = format!("{header_text}.{}", URL_SAFE_NO_PAD.encode(content));
    hmac::verify(&key, signed.as_bytes(), &signature).map_err(|_| JwsError::Mismatch)
}

#[cfg(test)]
pub(crate) fn sign(content: &[u8], token: &Token) -> String {
    let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"HS256","kid":"{}"}}"#, token.id()));
    let key = hmac::Key::new(hmac::HMAC_SHA256, token.secret().as_bytes());
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(content));
    let signature = URL_SAFE_NO_PAD.encode(hmac::sign(&key, signed.as_bytes()));
    format!("{header}..{signature}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As published by kube-controller-manager v1.37.1's bootstrap signer; the test in `tests/` repeats this against a real one.
    fn token(text: &str) -> Token {
        Token::parse(text).unwrap()
    }

    #[test]
    fn only_the_token_that_signed_verifies() {
        let token_a = token("abcdef.0123456789abcdef");
        let jws = sign(b"content", &token_a);
        assert_eq!(verify(&jws, b"content", &token_a), Ok(()));
        assert_eq!(verify(&jws, b"Content", &token_a), Err(JwsError::Mismatch));
        let other_secret = token("abcdef.fedcba9876543210");
        assert_eq!(
            verify(&jws, b"content", &other_secret),
            Err(JwsError::Mismatch)
        );
        let other_id = token("fedcba.0123456789abcdef");
        assert_eq!(
            verify(&jws, b"content", &other_id),
            Err(JwsError::KeyId("abcdef".to_owned()))
        );
    }

    #[test]
    fn a_signature_without_a_key_is_refused() {
        let token = token("abcdef.0123456789abcdef");
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","kid":"abcdef"}"#);
        assert_eq!(
            verify(&format!("{header}.."), b"x", &token),
            Err(JwsError::Algorithm("none".to_owned()))
        );
    }

    #[test]
    fn rubbish_is_an_error_not_a_panic() {
        let token = token("abcdef.0123456789abcdef");
        for text in ["", ".", "..", "a.b.c", "?..?", "e30..", "e30..e30"] {
            assert!(verify(text, b"x", &token).is_err(), "{text:?}");
        }
    }
}
