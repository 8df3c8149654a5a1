//! JSON tensors of the Open Inference Protocol → pictures for the network.
//!
//! Invariant: a picture leaves here only if every value is a whole number from 0 to 255 and the shape is the model's.

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error, SeqAccess, Visitor},
};

use crate::api::error::ApiError;

/// Most pictures in one request.
pub(in crate::api) const MAX_PICTURES: usize = 16;
/// Name of the only input.
pub(in crate::api) const INPUT: &str = "image";
/// Its type.
pub(in crate::api) const DATATYPE: &str = "UINT8";

/// The body of an inference request; unknown members are passed over, as the protocol wants.
#[derive(Deserialize)]
pub(in crate::api) struct InferRequest {
    #[serde(default)]
    pub id: Option<String>,
    inputs: Vec<InputTensor>,
    #[serde(default)]
    pub outputs: Vec<RequestedOutput>,
}

#[derive(Deserialize)]
struct InputTensor {
    name: String,
    shape: Vec<usize>,
    datatype: String,
    data: Numbers,
}

/// An output that is asked for.
#[derive(Deserialize)]
pub(in crate::api) struct RequestedOutput {
    pub name: String,
}

/// Numbers of a flat or nested JSON array in row-major order; `null`, `"NaN"` and the like are kept as NaN.
struct Numbers(Vec<f32>);

impl<'de> Deserialize<'de> for Numbers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut values = Vec::new();
        NumberCollector(&mut values).deserialize(deserializer)?;
        Ok(Numbers(values))
    }
}

struct NumberCollector<'a>(&'a mut Vec<f32>);

impl<'de> DeserializeSeed<'de> for NumberCollector<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for NumberCollector<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("numbers in a flat or nested array")
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.0.push(value as f32);
        Ok(())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.0.push(value as f32);
        Ok(())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.0.push(value as f32);
        Ok(())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.0.push(f32::NAN);
        Ok(())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        match text {
            "NaN" | "Infinity" | "-Infinity" => self.visit_unit(),
            _ => Err(E::custom(format!("`{text}` is not a number"))),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut rows: A) -> Result<(), A::Error> {
        while rows.next_element_seed(NumberCollector(self.0))?.is_some() {}
        Ok(())
    }
}

/// Reads a request's body.
///
/// # Errors
/// [`ApiError::NotFinite`] where NaN or an infinity stands, though JSON has neither; [`ApiError::Malformed`].
pub(in crate::api) fn parse(body: &[u8]) -> Result<InferRequest, ApiError> {
    serde_json::from_slice(body).map_err(|e| {
        // Python's json writes bare NaN and Infinity; say what is wrong rather than where the syntax broke.
        let bare = |word: &[u8]| body.windows(word.len()).any(|w| w == word);
        let huge = e.to_string().contains("number out of range");
        if huge || (e.is_syntax() && (bare(b"NaN") || bare(b"Infinity"))) {
            ApiError::NotFinite
        } else {
            ApiError::Malformed(format!("the body is not an inference request: {e}"))
        }
    })
}

impl InferRequest {
    /// The pictures, each `side * side * 3` bytes.
    ///
    /// # Errors
    /// [`ApiError::Shape`], [`ApiError::NotFinite`].
    pub(in crate::api) fn pictures(&self, side: usize) -> Result<Vec<Vec<u8>>, ApiError> {
        let shape = |words: String| Err(ApiError::Shape(words));
        let [input] = &self.inputs[..] else {
            return shape(format!("the model takes one input, `{INPUT}`, not {}", self.inputs.len()));
        };
        if input.name != INPUT {
            return shape(format!("the model's input is `{INPUT}`, not `{}`", input.name));
        }
        let values = &input.data.0;
        if !values.iter().all(|v| v.is_finite()) {
            return Err(ApiError::NotFinite);
        }
        if input.datatype != DATATYPE {
            return shape(format!("`{INPUT}` takes {DATATYPE}, not {}", input.datatype));
        }
        let &[n, height, width, channels] = &input.shape[..] else {
            return shape(format!("`{INPUT}` has shape [n, {side}, {side}, 3], not {:?}", input.shape));
        };
        if (height, width, channels) != (side, side, 3) {
            return shape(format!("`{INPUT}` has shape [n, {side}, {side}, 3], not {:?}", input.shape));
        }
        if !(1..=MAX_PICTURES).contains(&n) {
            return shape(format!("1 to {MAX_PICTURES} pictures are taken at once, not {n}"));
        }
        let size = side * side * 3;
        if values.len() != n * size {
            return shape(format!("shape {:?} needs {} values, `data` has {}", input.shape, n * size, values.len()));
        }
        if let Some(wrong) = values.iter().find(|v| !(0.0..=255.0).contains(*v) || v.fract() != 0.0) {
            return shape(format!("{wrong} is not a {DATATYPE} value: it must be a whole number from 0 to 255"));
        }
        Ok(values.chunks(size).map(|picture| picture.iter().map(|&v| v as u8).collect()).collect())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(datatype: &str, shape: &str, data: &str) -> Result<Vec<Vec<u8>>, ApiError> {
        let body = format!(
            r#"{{"inputs":[{{"name":"image","datatype":"{datatype}","shape":{shape},"data":{data},"parameters":{{}}}}]}}"#
        );
        parse(body.as_bytes())?.pictures(1)
    }

    #[test]
    fn flat_and_nested_data_are_the_same_pictures() {
        let nested = read("UINT8", "[2,1,1,3]", "[[[[0,1,2]]],[[[253,254,255]]]]").unwrap();
        assert_eq!(nested, [[0, 1, 2], [253, 254, 255]]);
        assert_eq!(read("UINT8", "[2,1,1,3]", "[0,1,2,253,254,255.0]").unwrap(), nested);
    }

    #[test]
    fn what_is_not_finite_is_called_so() {
        for data in ["[0,1,NaN]", "[0,1,null]", r#"[0,1,"NaN"]"#, "[0,1,-Infinity]", "[0,1,1e999]"] {
            for datatype in ["UINT8", "FP32"] {
                assert!(matches!(read(datatype, "[1,1,1,3]", data), Err(ApiError::NotFinite)), "{datatype} {data}");
            }
        }
    }

    #[test]
    fn what_does_not_fit_the_model_is_refused() {
        for (datatype, shape, data) in [
            ("FP32", "[1,1,1,3]", "[0,1,2]"),
            ("UINT8", "[1,1,3]", "[0,1,2]"),
            ("UINT8", "[1,2,1,3]", "[0,1,2,3,4,5]"),
            ("UINT8", "[0,1,1,3]", "[]"),
            ("UINT8", "[17,1,1,3]", "[]"),
            ("UINT8", "[1,1,1,3]", "[0,1]"),
            ("UINT8", "[1,1,1,3]", "[0,1,256]"),
            ("UINT8", "[1,1,1,3]", "[0,1,-1]"),
            ("UINT8", "[1,1,1,3]", "[0,1,0.5]"),
        ] {
            assert!(matches!(read(datatype, shape, data), Err(ApiError::Shape(_))), "{datatype} {shape} {data}");
        }
        assert!(matches!(read("UINT8", "[1,1,1,3]", "[0,1"), Err(ApiError::Malformed(_))));
    }
}
