//! The words init and agent exchange: fixed-size messages over the inherited socketpair (`SOCK_SEQPACKET` or datagrams).
//!
//! Layout of the [`SIZE`] bytes: kind (u8), text length (u8), text (UTF-8, cut at a character border), zero padding.
//! Nothing allocates on the encoding side, so init can speak after boot. Unknown kinds are an error the receiver may skip:
//! an older peer stays compatible.

use std::fmt;

/// Bytes in every message.
pub const SIZE: usize = 256;
/// Most bytes of text a message carries; longer text is cut.
pub const MAX_TEXT: usize = SIZE - 2;

/// One message, borrowing its text from the sender's or receiver's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// Agent to init: alive. Silence for the configured time gets the agent killed.
    Heartbeat,
    /// Init to agent: stop the pods, then answer [`Message::PodsDown`].
    ShutdownBegin,
    /// Agent to init: no pod runs any more.
    PodsDown,
    /// Agent to init: reboot in order, for this reason.
    Reboot(&'a str),
    /// Agent to init: power off in order, for this reason.
    PowerOff(&'a str),
    /// Agent to init: one line for the console.
    Status(&'a str),
}

/// Why bytes are not a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// Not [`SIZE`] bytes.
    Size(usize),
    /// A kind this build does not know.
    Kind(u8),
    /// The text length points past the message, or the text is not UTF-8.
    Text,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size(n) => write!(f, "control message of {n} bytes, expected {SIZE}"),
            Self::Kind(k) => write!(f, "control message of unknown kind {k}"),
            Self::Text => f.write_str("control message with broken text"),
        }
    }
}

impl std::error::Error for DecodeError {}

impl<'a> Message<'a> {
    /// The message's bytes. Text beyond [`MAX_TEXT`] bytes is cut at a character border.
    pub fn encode(&self) -> [u8; SIZE] {
        let (kind, text) = match *self {
            Message::Heartbeat => (1, ""),
            Message::ShutdownBegin => (2, ""),
            Message::PodsDown => (3, ""),
            Message::Reboot(text) => (4, text),
            Message::PowerOff(text) => (5, text),
            Message::Status(text) => (6, text),
        };
        let text = cut(text);
        let mut bytes = [0; SIZE];
        bytes[0] = kind;
        // MAX_TEXT is 254, so the length always fits.
        bytes[1] = u8::try_from(text.len()).unwrap_or(0);
        bytes[2..2 + text.len()].copy_from_slice(text.as_bytes());
        bytes
    }

    /// Reads a message.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        if bytes.len() != SIZE {
            return Err(DecodeError::Size(bytes.len()));
        }
        let text = bytes
            .get(2..2 + usize::from(bytes[1]))
            .ok_or(DecodeError::Text)?;
        let text = std::str::from_utf8(text).map_err(|_| DecodeError::Text)?;
        match bytes[0] {
            1 => Ok(Message::Heartbeat),
            2 => Ok(Message::ShutdownBegin),
            3 => Ok(Message::PodsDown),
            4 => Ok(Message::Reboot(text)),
            5 => Ok(Message::PowerOff(text)),
            6 => Ok(Message::Status(text)),
            kind => Err(DecodeError::Kind(kind)),
        }
    }
}

/// The longest prefix of `text` that fits a message and ends at a character border.
fn cut(text: &str) -> &str {
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn long_text_is_cut_at_a_character_border() {
        let text = "ü".repeat(200);
        let bytes = Message::Status(&text).encode();
        assert_eq!(Message::decode(&bytes), Ok(Message::Status(&text[..254])));
    }

    #[test]
    fn an_unknown_kind_is_named() {
        let mut bytes = Message::Heartbeat.encode();
        bytes[0] = 77;
        assert_eq!(Message::decode(&bytes), Err(DecodeError::Kind(77)));
    }

    proptest! {
        #[test]
        fn decoding_any_bytes_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Message::decode(&bytes);
        }

        #[test]
        fn a_message_survives_the_wire(text in ".{0,80}") {
            let text = cut(&text);
            for message in [Message::Reboot(text), Message::PowerOff(text), Message::Status(text)] {
                let bytes = message.encode();
                prop_assert_eq!(Message::decode(&bytes), Ok(message));
            }
        }
    }
}
