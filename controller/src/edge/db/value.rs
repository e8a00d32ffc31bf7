//! What stands before each value on the disk: a format and a checksum over key and value, since SQLite does not notice
//! a flipped bit in a row.

use trueup_engine::ports::DbError;

/// Header: format byte, CRC-32C of key and value, little endian.
const HEADER: usize = 5;
/// The format that this release writes.
const FORMAT: u8 = 1;

fn checksum(key: &str, value: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key.as_bytes()), value)
}

/// Header and value.
pub(super) fn seal(key: &str, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + value.len());
    out.push(FORMAT);
    out.extend_from_slice(&checksum(key, value).to_le_bytes());
    out.extend_from_slice(value);
    out
}

/// The value, if it is whole and under its own key.
pub(super) fn open(key: &str, bytes: &[u8]) -> Result<Vec<u8>, DbError> {
    let corrupt = |why: String| DbError::Corrupt {
        key: key.to_owned(),
        why,
    };
    let Some((header, value)) = bytes.split_first_chunk::<HEADER>() else {
        return Err(corrupt("shorter than its header".to_owned()));
    };
    let [format, crc @ ..] = *header;
    if format != FORMAT {
        return Err(corrupt(format!(
            "format {format}; this trueup reads {FORMAT}: use the one that wrote it, or newer"
        )));
    }
    if u32::from_le_bytes(crc) != checksum(key, value) {
        return Err(corrupt(
            "checksum does not match: restore a backup (`trueup db backup` makes them)".to_owned(),
        ));
    }
    Ok(value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flipped_bit_or_another_key_is_noticed() {
        let sealed = seal("/hosts/a", b"value");
        assert_eq!(open("/hosts/a", &sealed).unwrap(), b"value");
        assert!(open("/hosts/b", &sealed).is_err());
        for i in 0..sealed.len() * 8 {
            let mut bad = sealed.clone();
            bad[i / 8] ^= 1 << (i % 8);
            assert!(open("/hosts/a", &bad).is_err(), "bit {i}");
        }
    }
}
