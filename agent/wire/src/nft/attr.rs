//! Netlink messages and attributes, written and read as plain bytes. Shared by nf_tables and conntrack.
//!
//! Reading never panics: a length that lies ends the iteration with [`Malformed`].

/// Header of a netlink message plus `nfgenmsg`.
pub const HEADER: usize = 20;
pub const NLM_F_REQUEST: u16 = 1;
pub const NLM_F_ACK: u16 = 4;
pub const NLM_F_DUMP: u16 = 0x300;
pub const NLM_F_DUMP_INTR: u16 = 0x10;
pub const NLM_F_EXCL: u16 = 0x200;
pub const NLM_F_CREATE: u16 = 0x400;
pub const NLM_F_APPEND: u16 = 0x800;
pub const NLMSG_ERROR: u16 = 2;
pub const NLMSG_DONE: u16 = 3;

const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;

/// Bytes that are not the netlink they claim to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed netlink message: {0}")]
pub struct Malformed(pub &'static str);

/// Writes messages one after the other into one buffer.
#[derive(Debug, Default)]
pub struct Writer {
    buffer: Vec<u8>,
    start: usize,
}

/// Where a nested attribute began; give it back to [`Writer::end`].
#[must_use]
#[derive(Debug)]
pub struct Nest(usize);

impl Writer {
    /// Starts a message of netfilter: netlink header and `nfgenmsg`.
    pub fn message(&mut self, kind: u16, flags: u16, sequence: u32, family: u8, resource: u16) {
        self.start = self.buffer.len();
        self.buffer.extend(0u32.to_ne_bytes());
        self.buffer.extend(kind.to_ne_bytes());
        self.buffer.extend((flags | NLM_F_REQUEST).to_ne_bytes());
        self.buffer.extend(sequence.to_ne_bytes());
        self.buffer.extend(0u32.to_ne_bytes());
        self.buffer.extend([family, 0]);
        self.buffer.extend(resource.to_be_bytes());
    }

    /// Ends the message: its length goes into its header.
    pub fn finish(&mut self) {
        let len = u32::try_from(self.buffer.len() - self.start).unwrap_or(u32::MAX);
        self.buffer[self.start..self.start + 4].copy_from_slice(&len.to_ne_bytes());
    }

    /// Bytes written so far.
    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.buffer
    }

    pub fn bytes(&mut self, kind: u16, value: &[u8]) {
        // Values are names, keys and comments, bounded far below 64 KiB by the kernel's own limits; element lists are split.
        let len = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.buffer.extend(len.to_ne_bytes());
        self.buffer.extend(kind.to_ne_bytes());
        self.buffer.extend(value);
        self.pad();
    }

    /// A string with its terminating zero.
    pub fn text(&mut self, kind: u16, value: &str) {
        let len = u16::try_from(value.len() + 5).unwrap_or(u16::MAX);
        self.buffer.extend(len.to_ne_bytes());
        self.buffer.extend(kind.to_ne_bytes());
        self.buffer.extend(value.as_bytes());
        self.buffer.push(0);
        self.pad();
    }

    pub fn be32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    pub fn be64(&mut self, kind: u16, value: u64) {
        self.bytes(kind, &value.to_be_bytes());
    }

    pub fn begin(&mut self, kind: u16) -> Nest {
        let at = self.buffer.len();
        self.buffer.extend(0u16.to_ne_bytes());
        self.buffer.extend((kind | NESTED).to_ne_bytes());
        Nest(at)
    }

    pub fn end(&mut self, nest: Nest) {
        let len = u16::try_from(self.buffer.len() - nest.0).unwrap_or(u16::MAX);
        self.buffer[nest.0..nest.0 + 2].copy_from_slice(&len.to_ne_bytes());
    }

    fn pad(&mut self) {
        while !self.buffer.len().is_multiple_of(4) {
            self.buffer.push(0);
        }
    }
}

/// One message of a received buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    /// What follows the netlink header.
    pub payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// The attributes behind `nfgenmsg`.
    pub fn attributes(&self) -> Attributes<'a> {
        Attributes(self.payload.get(4..).unwrap_or_default())
    }

    /// The family in `nfgenmsg`.
    pub fn family(&self) -> u8 {
        self.payload.first().copied().unwrap_or(0)
    }
}

/// The messages of a received buffer.
pub fn messages(mut buffer: &[u8]) -> impl Iterator<Item = Result<Message<'_>, Malformed>> {
    std::iter::from_fn(move || {
        if buffer.is_empty() {
            return None;
        }
        let (message, rest) = match split_message(buffer) {
            Ok(parts) => parts,
            Err(e) => {
                buffer = &[];
                return Some(Err(e));
            }
        };
        buffer = rest;
        Some(Ok(message))
    })
}

fn split_message(buffer: &[u8]) -> Result<(Message<'_>, &[u8]), Malformed> {
    let short = Malformed("shorter than its header");
    let word = |at: usize| -> Option<u32> {
        Some(u32::from_ne_bytes(buffer.get(at..at + 4)?.try_into().ok()?))
    };
    let half = |at: usize| -> Option<u16> {
        Some(u16::from_ne_bytes(buffer.get(at..at + 2)?.try_into().ok()?))
    };
    let len = word(0).ok_or(short.clone())? as usize;
    let payload = buffer
        .get(16..len)
        .ok_or(Malformed("length beyond the buffer"))?;
    let message = Message {
        kind: half(4).ok_or(short.clone())?,
        flags: half(6).ok_or(short.clone())?,
        sequence: word(8).ok_or(short)?,
        payload,
    };
    let rest = buffer.get(len.next_multiple_of(4)..).unwrap_or_default();
    Ok((message, rest))
}

/// A run of attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes<'a>(pub &'a [u8]);

/// One attribute: its number and its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attribute<'a> {
    pub kind: u16,
    pub value: &'a [u8],
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<Attribute<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let &[a, b, c, d, ..] = self.0 else {
            self.0 = &[];
            return Some(Err(Malformed("attribute shorter than its header")));
        };
        let len = usize::from(u16::from_ne_bytes([a, b]));
        let Some(value) = self.0.get(4..len) else {
            self.0 = &[];
            return Some(Err(Malformed("attribute longer than its message")));
        };
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(Ok(Attribute {
            kind: u16::from_ne_bytes([c, d]) & TYPE_MASK,
            value,
        }))
    }
}

impl<'a> Attribute<'a> {
    pub fn nested(&self) -> Attributes<'a> {
        Attributes(self.value)
    }

    pub fn be16(&self) -> Result<u16, Malformed> {
        let bytes = self.value.try_into().map_err(|_| Malformed("not 16 bit"))?;
        Ok(u16::from_be_bytes(bytes))
    }

    pub fn be32(&self) -> Result<u32, Malformed> {
        let bytes = self.value.try_into().map_err(|_| Malformed("not 32 bit"))?;
        Ok(u32::from_be_bytes(bytes))
    }

    pub fn be64(&self) -> Result<u64, Malformed> {
        let bytes = self.value.try_into().map_err(|_| Malformed("not 64 bit"))?;
        Ok(u64::from_be_bytes(bytes))
    }

    /// A string up to its terminating zero.
    pub fn text(&self) -> Result<&'a str, Malformed> {
        let end = self
            .value
            .iter()
            .position(|b| *b == 0)
            .unwrap_or(self.value.len());
        std::str::from_utf8(&self.value[..end]).map_err(|_| Malformed("text is not UTF-8"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_written_message_reads_back() {
        let mut writer = Writer::default();
        writer.message(0x0a00, NLM_F_ACK, 7, 2, 10);
        let nest = writer.begin(4);
        writer.be32(1, 0x0102_0304);
        writer.text(2, "abc");
        writer.end(nest);
        writer.finish();
        let bytes = writer.into_bytes();
        let message = messages(&bytes).next().unwrap().unwrap();
        assert_eq!(
            (message.kind, message.flags),
            (0x0a00, NLM_F_ACK | NLM_F_REQUEST)
        );
        assert_eq!((message.sequence, message.family()), (7, 2));
        let nest = message.attributes().next().unwrap().unwrap();
        let inner: Vec<_> = nest.nested().map(Result::unwrap).collect();
        assert_eq!(inner[0].be32(), Ok(0x0102_0304));
        assert_eq!(inner[1].text(), Ok("abc"));
    }

    #[test]
    fn a_length_below_the_header_ends_the_iteration() {
        let lie = [3u8, 0, 1, 0, 9, 9, 9, 9];
        let items: Vec<_> = Attributes(&lie).collect();
        assert_eq!(items.len(), 1);
        assert!(items[0].is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_readers_panic_or_loop(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for message in messages(&bytes).flatten() {
                for attribute in message.attributes().flatten() {
                    for _ in attribute.nested().take(100) {}
                }
            }
        }
    }
}
