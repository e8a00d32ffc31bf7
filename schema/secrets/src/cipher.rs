//! One encrypted value: `ENC[AES256_GCM,data:..,iv:..,tag:..,type:..]` to a value and back.

use aes_gcm::AesGcm;
use aes_gcm::aead::consts::{U12, U16, U32};
use aes_gcm::aead::generic_array::GenericArray;
use aes_gcm::aead::rand_core::RngCore;
use aes_gcm::aead::{Aead, KeyInit, OsRng, Payload};
use aes_gcm::aes::Aes256;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::error::Error;
use crate::time;
use crate::value::Value;

/// The key of one file's values.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub(crate) struct DataKey([u8; 32]);

impl DataKey {
    pub(crate) fn random() -> Self {
        let mut key = Self([0; 32]);
        OsRng.fill_bytes(&mut key.0);
        key
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// The fields of an encrypted value, still in base64.
pub(crate) struct Sealed<'a> {
    data: &'a str,
    iv: &'a str,
    tag: &'a str,
    kind: &'a str,
}

impl<'a> Sealed<'a> {
    /// Reads the string form. What follows the last `]` of the first line is ignored, as the reference does.
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        let line = text.split('\n').next()?;
        let body = line.strip_prefix("ENC[AES256_GCM,data:")?;
        let body = &body[..body.rfind(']')?];
        // Fields are greedy from the left, so each mark is the last one that leaves the later fields non-empty.
        let (body, kind) = last_field(body, ",type:")?;
        let (body, tag) = last_field(body, ",tag:")?;
        let (data, iv) = last_field(body, ",iv:")?;
        (!data.is_empty()).then_some(Self {
            data,
            iv,
            tag,
            kind,
        })
    }

    pub(crate) fn kind(&self) -> &'a str {
        self.kind
    }

    pub(crate) fn iv(&self) -> Option<Vec<u8>> {
        STANDARD.decode(self.iv).ok()
    }

    /// The authenticated bytes.
    pub(crate) fn open(
        &self,
        key: &DataKey,
        aad: &str,
        path: &str,
    ) -> Result<Zeroizing<Vec<u8>>, Error> {
        let field = |text: &str, part| {
            let clean: String = text.chars().filter(|c| *c != '\r').collect();
            STANDARD.decode(clean).map_err(|_| Error::ValueBase64 {
                path: path.to_owned(),
                part,
            })
        };
        let mut sealed = field(self.data, "data")?;
        let iv = field(self.iv, "iv")?;
        sealed.extend(field(self.tag, "tag")?);
        open_bytes(key, &iv, &sealed, aad.as_bytes()).ok_or_else(|| Error::ValueAuth {
            path: path.to_owned(),
        })
    }
}

fn last_field<'a>(body: &'a str, mark: &str) -> Option<(&'a str, &'a str)> {
    // The field must hold a byte at least: the mark may not be at the very end.
    let end = body.char_indices().last()?.0;
    let at = body[..end].rfind(mark)?;
    Some((&body[..at], &body[at + mark.len()..]))
}

fn open_bytes(key: &DataKey, iv: &[u8], sealed: &[u8], aad: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let key = GenericArray::from_slice(&key.0);
    let payload = Payload { msg: sealed, aad };
    // sops writes 32 bytes; other tools were seen to write 12 and 16.
    let plain = match iv.len() {
        32 => AesGcm::<Aes256, U32>::new(key).decrypt(GenericArray::from_slice(iv), payload),
        16 => AesGcm::<Aes256, U16>::new(key).decrypt(GenericArray::from_slice(iv), payload),
        12 => AesGcm::<Aes256, U12>::new(key).decrypt(GenericArray::from_slice(iv), payload),
        _ => return None,
    };
    plain.ok().map(Zeroizing::new)
}

/// Opens a value and gives it its type back.
pub(crate) fn open(text: &str, key: &DataKey, aad: &str, path: &str) -> Result<Value, Error> {
    let sealed = Sealed::parse(text).ok_or_else(|| Error::ValueNotEncrypted {
        path: path.to_owned(),
    })?;
    let plain = sealed.open(key, aad, path)?;
    typed(sealed.kind(), plain, path)
}

fn typed(kind: &str, plain: Zeroizing<Vec<u8>>, path: &str) -> Result<Value, Error> {
    let bad = |name| Error::TypeParse {
        path: path.to_owned(),
        name,
    };
    let text = || std::str::from_utf8(&plain).ok();
    match kind {
        "str" => Ok(Value::Str(plain)),
        "int" => text()
            .and_then(|text| text.parse().ok())
            .map(Value::Int)
            .ok_or_else(|| bad("int")),
        "float" => text()
            .and_then(|text| text.parse().ok())
            .map(Value::Float)
            .ok_or_else(|| bad("float")),
        "bool" => match &plain[..] {
            b"1" | b"t" | b"T" | b"TRUE" | b"true" | b"True" => Ok(Value::Bool(true)),
            b"0" | b"f" | b"F" | b"FALSE" | b"false" | b"False" => Ok(Value::Bool(false)),
            _ => Err(bad("bool")),
        },
        "time" => text()
            .and_then(time::rfc3339)
            .map(Value::Time)
            .ok_or_else(|| bad("time")),
        "comment" => Ok(Value::comment(&String::from_utf8_lossy(&plain), false)),
        name => Err(Error::UnknownType {
            path: path.to_owned(),
            name: name.chars().take(32).collect(),
        }),
    }
}

/// A nonce for one value.
pub(crate) fn fresh_iv() -> Vec<u8> {
    let mut iv = vec![0; 32];
    OsRng.fill_bytes(&mut iv);
    iv
}

/// Seals a leaf in its string form. `iv` has 32 bytes and is used for this plain text and path only.
pub(crate) fn seal(
    value: &Value,
    key: &DataKey,
    aad: &str,
    iv: &[u8],
    path: &str,
) -> Result<String, Error> {
    let unsupported = |reason| Error::Unsupported {
        path: path.to_owned(),
        reason,
    };
    let kind = match value {
        Value::Str(_) => "str",
        Value::Int(_) => "int",
        Value::Float(_) => "float",
        Value::Bool(_) => "bool",
        Value::Time(_) => "time",
        Value::Comment(_) => "comment",
        Value::Unsigned(_) => return Err(unsupported("the integer is above 9223372036854775807")),
        Value::Null | Value::Map(_) | Value::List(_) => {
            return Err(unsupported("only single values are encrypted"));
        }
    };
    let plain = value
        .canonical()
        .ok_or_else(|| unsupported("only single values are encrypted"))?;
    let cipher = AesGcm::<Aes256, U32>::new(GenericArray::from_slice(&key.0));
    let payload = Payload {
        msg: &plain,
        aad: aad.as_bytes(),
    };
    let sealed = cipher
        .encrypt(GenericArray::from_slice(iv), payload)
        .map_err(|_| unsupported("it is too long for AES-GCM"))?;
    let (data, tag) = sealed.split_at(sealed.len() - 16);
    let [data, iv, tag] = [data, iv, tag].map(|part| STANDARD.encode(part));
    Ok(format!(
        "ENC[AES256_GCM,data:{data},iv:{iv},tag:{tag},type:{kind}]"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_comes_back_as_it_was() {
        let key = DataKey::random();
        let values = [
            Value::text("hunter2"),
            Value::Int(-7),
            Value::Float(1.5),
            Value::Float(f64::INFINITY),
            Value::Bool(true),
            Value::Time("2020-01-01T00:00:00Z".into()),
            Value::comment(" note", false),
        ];
        for value in values {
            let text = seal(&value, &key, "a:", &fresh_iv(), "a").expect("seals");
            assert!(open(&text, &key, "a:", "a").expect("opens") == value);
            assert!(matches!(
                open(&text, &key, "b:", "a"),
                Err(Error::ValueAuth { .. })
            ));
        }
    }

    #[test]
    fn a_field_that_is_empty_is_not_an_encrypted_value() {
        assert!(Sealed::parse("ENC[AES256_GCM,data:,iv:a,tag:b,type:str]").is_none());
        assert!(Sealed::parse("ENC[AES256_GCM,data:a,iv:,tag:b,type:str]").is_none());
        assert!(Sealed::parse("ENC[AES256_GCM,data:a,iv:b,tag:c,type:]").is_none());
        assert!(Sealed::parse("ENC[AES256_GCM,data:a,iv:b,tag:c,type:str] and more").is_some());
        assert!(Sealed::parse("ENC[").is_none());
    }
}
