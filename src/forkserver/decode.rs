//! Decoding, with huge pages for what is large.
//!
//! New memory of 100 MiB comes as 25,600 pages, each of which the program has to fault in when it is first written to; as 50 huge ones it is there in a
//! fraction of the time (`madvise(2)`, MADV_HUGEPAGE). Only who makes a vector can ask for them before they are written to. So between the decoder
//! and what it decodes stands a [`Through`], which passes everything on but large byte strings and texts: those it copies itself, and
//! gives away as what they are to become, a `Vec<u8>` or a `String`.

use std::fmt;

use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor,
};

use crate::sys;

/// Of two of the usual huge pages one lies within, wherever it begins.
const LARGE: usize = 4 << 20;

/// # Errors
/// In words.
pub(crate) fn decode<A: DeserializeOwned>(bytes: &[u8]) -> postcard::Result<A> {
    if bytes.len() < LARGE {
        return postcard::from_bytes(bytes);
    }
    A::deserialize(Through(&mut postcard::Deserializer::from_bytes(bytes)))
}

/// Any part of a decoder, or of what decodes itself, as the other sees it.
struct Through<T>(T);

macro_rules! deserialize {
    ($($name:ident($($argument:ident: $type:ty),*))*) => {$(
        fn $name<V: Visitor<'de>>(self, $($argument: $type,)* visitor: V) -> Result<V::Value, D::Error> {
            self.0.$name($($argument,)* Through(visitor))
        }
    )*};
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Through<D> {
    type Error = D::Error;

    deserialize! {
        deserialize_any() deserialize_bool() deserialize_char() deserialize_str() deserialize_string() deserialize_bytes() deserialize_byte_buf()
        deserialize_i8() deserialize_i16() deserialize_i32() deserialize_i64() deserialize_i128()
        deserialize_u8() deserialize_u16() deserialize_u32() deserialize_u64() deserialize_u128() deserialize_f32() deserialize_f64()
        deserialize_option() deserialize_unit() deserialize_seq() deserialize_map() deserialize_identifier() deserialize_ignored_any()
        deserialize_unit_struct(name: &'static str) deserialize_newtype_struct(name: &'static str)
        deserialize_tuple(len: usize) deserialize_tuple_struct(name: &'static str, len: usize)
        deserialize_struct(name: &'static str, fields: &'static [&'static str])
        deserialize_enum(name: &'static str, variants: &'static [&'static str])
    }

    fn is_human_readable(&self) -> bool {
        self.0.is_human_readable()
    }
}

macro_rules! visit {
    ($($name:ident($type:ty))*) => {$(
        fn $name<E: serde::de::Error>(self, value: $type) -> Result<V::Value, E> {
            self.0.$name(value)
        }
    )*};
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Through<V> {
    type Value = V::Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(formatter)
    }

    visit! {
        visit_bool(bool) visit_char(char) visit_str(&str) visit_string(String) visit_bytes(&[u8]) visit_byte_buf(Vec<u8>)
        visit_i8(i8) visit_i16(i16) visit_i32(i32) visit_i64(i64) visit_i128(i128)
        visit_u8(u8) visit_u16(u16) visit_u32(u32) visit_u64(u64) visit_u128(u128) visit_f32(f32) visit_f64(f64)
    }

    fn visit_borrowed_bytes<E: serde::de::Error>(self, bytes: &'de [u8]) -> Result<V::Value, E> {
        if bytes.len() < LARGE {
            return self.0.visit_borrowed_bytes(bytes);
        }
        let mut own = Vec::with_capacity(bytes.len());
        sys::memory::prefer_huge_pages(own.spare_capacity_mut());
        own.extend_from_slice(bytes);
        self.0.visit_byte_buf(own)
    }

    fn visit_borrowed_str<E: serde::de::Error>(self, text: &'de str) -> Result<V::Value, E> {
        if text.len() < LARGE {
            return self.0.visit_borrowed_str(text);
        }
        let mut own = Vec::with_capacity(text.len());
        sys::memory::prefer_huge_pages(own.spare_capacity_mut());
        let mut own = String::from_utf8(own).unwrap_or_default();
        own.push_str(text);
        self.0.visit_string(own)
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<V::Value, E> {
        self.0.visit_none()
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<V::Value, E> {
        self.0.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        self.0.visit_some(Through(deserializer))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        self.0.visit_newtype_struct(Through(deserializer))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<V::Value, A::Error> {
        self.0.visit_seq(Through(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<V::Value, A::Error> {
        self.0.visit_map(Through(entries))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, variant: A) -> Result<V::Value, A::Error> {
        self.0.visit_enum(Through(variant))
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Through<S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        self.0.deserialize(Through(deserializer))
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Through<A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        self.0.next_element_seed(Through(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint()
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Through<A> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        self.0.next_key_seed(Through(seed))
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.0.next_value_seed(Through(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint()
    }
}

impl<'de, A: EnumAccess<'de>> EnumAccess<'de> for Through<A> {
    type Error = A::Error;
    type Variant = Through<A::Variant>;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self::Variant), A::Error> {
        let (value, variant) = self.0.variant_seed(Through(seed))?;
        Ok((value, Through(variant)))
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for Through<A> {
    type Error = A::Error;

    fn unit_variant(self) -> Result<(), A::Error> {
        self.0.unit_variant()
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, A::Error> {
        self.0.newtype_variant_seed(Through(seed))
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, A::Error> {
        self.0.tuple_variant(len, Through(visitor))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        self.0.struct_variant(fields, Through(visitor))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Serialize};
    use serde_bytes::ByteBuf;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Shape {
        Unit,
        New(Option<ByteBuf>),
        Tuple(u8, ByteBuf),
        Struct { text: String, byte: i128 },
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Everything {
        flags: (bool, char, f32, f64, u128),
        numbers: (i8, i16, i32, i64, u8, u16, u32, u64),
        unit: (),
        shapes: Vec<Shape>,
        map: BTreeMap<String, Option<ByteBuf>>,
        boxed: Box<[ByteBuf]>,
    }

    #[test]
    fn large_values_of_every_shape_come_back() {
        let large = || ByteBuf::from((0..LARGE + 17).map(|n| n as u8).collect::<Vec<u8>>());
        let text = "äß".repeat(LARGE / 2);
        let everything = Everything {
            flags: (true, 'ß', 0.5, -0.25, u128::MAX),
            numbers: (-1, -2, -3, -4, 1, 2, 3, 4),
            unit: (),
            shapes: vec![
                Shape::Unit,
                Shape::New(None),
                Shape::New(Some(large())),
                Shape::Tuple(7, large()),
                Shape::Struct { text: text.clone(), byte: i128::MIN },
            ],
            map: [
                ("few".to_owned(), Some(ByteBuf::from(vec![1, 2]))),
                (text, Some(large())),
                ("none".to_owned(), None),
            ]
            .into(),
            boxed: Box::new([ByteBuf::new(), large()]),
        };
        let mut bytes = postcard::to_stdvec(&everything).unwrap();
        assert_eq!(decode::<Everything>(&bytes).unwrap(), everything);
        bytes.truncate(bytes.len() - 1);
        decode::<Everything>(&bytes).unwrap_err();
    }
}
