//! The two checksums of the formats written here: CRC-32 (GPT) and CRC-32C (erofs, without final inversion).

/// Reflected polynomials.
const IEEE: u32 = 0xedb8_8320;
const CASTAGNOLI: u32 = 0x82f6_3b78;

/// CRC-32 as GPT headers want it (UEFI 5.3.2).
pub fn crc32(bytes: &[u8]) -> u32 {
    !update(IEEE, u32::MAX, bytes)
}

/// CRC-32C as the kernel's `crc32c(~0, …)`, which leaves out the final inversion.
pub fn crc32c_raw(bytes: &[u8]) -> u32 {
    update(CASTAGNOLI, u32::MAX, bytes)
}

fn update(polynomial: u32, seed: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(seed, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            let carry = if crc & 1 == 1 { polynomial } else { 0 };
            (crc >> 1) ^ carry
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_values_of_the_catalogues() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(!crc32c_raw(b"123456789"), 0xe306_9283);
    }
}
