//! Where the last N lines of a file begin, reading backwards in blocks.
//!
//! In: blocks of the file, from its end. Out: the offset to read from. The reader does the IO.

/// Counts line ends backwards. Partial lines count as lines of the file, as upstream counts them.
#[derive(Clone, Debug)]
pub struct Tail {
    /// Line ends still to be passed.
    want: u64,
    /// Start of the part that was looked at.
    offset: u64,
}

impl Tail {
    /// The last `lines` lines of a file of `size` bytes.
    pub fn new(lines: u64, size: u64) -> Tail {
        Tail {
            want: lines,
            offset: size,
        }
    }

    /// Which bytes to look at next: (offset, length), at most `block` long; `None`: the whole file was looked at.
    pub fn next(&self, block: u64) -> Option<(u64, u64)> {
        let length = self.offset.min(block);
        (length > 0).then(|| (self.offset - length, length))
    }

    /// Takes the bytes that [`Tail::next`] named; the offset to read from, once it is known.
    pub fn push(&mut self, bytes: &[u8], size: u64) -> Option<u64> {
        let start = self.offset - bytes.len() as u64;
        if self.want == 0 {
            return Some(size);
        }
        for (index, byte) in bytes.iter().enumerate().rev() {
            let end = start + index as u64 + 1;
            // The newline that ends the file ends its last line; it begins none.
            if *byte == b'\n' && end != size {
                self.want -= 1;
                if self.want == 0 {
                    return Some(end);
                }
            }
        }
        self.offset = start;
        (start == 0).then_some(0)
    }
}

/// The same for bytes in memory.
pub fn start(bytes: &[u8], lines: u64) -> usize {
    let size = bytes.len() as u64;
    let mut tail = Tail::new(lines, size);
    match tail.push(bytes, size) {
        Some(at) => usize::try_from(at).unwrap_or(bytes.len()),
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, lines: u64, expected: &str) {
        let size = text.len() as u64;
        for block in [1, 3, 100] {
            let mut tail = Tail::new(lines, size);
            let mut from = 0;
            while let Some((offset, length)) = tail.next(block) {
                let (a, b) = (offset as usize, (offset + length) as usize);
                if let Some(at) = tail.push(&text.as_bytes()[a..b], size) {
                    from = at as usize;
                    break;
                }
            }
            assert_eq!(
                &text[from..],
                expected,
                "{lines} lines in blocks of {block}"
            );
        }
    }

    #[test]
    fn tail_finds_the_last_lines() {
        check("a\nb\nc\n", 2, "b\nc\n");
        check("a\nb\nc", 2, "b\nc");
        check("a\nb\nc\n", 3, "a\nb\nc\n");
        check("a\nb\nc\n", 9, "a\nb\nc\n");
        check("a\nb\n", 0, "");
        check("", 5, "");
        assert_eq!(start(b"a\nb\n", 1), 2);
    }
}
