//! Tensors of the Open Inference Protocol, as JSON or as raw bytes behind it → pictures for the network.
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
    outputs: Option<Vec<RequestedOutput>>,
    parameters: Option<RequestParameters>,
    /// What follows the JSON: the tensors that are sent as raw bytes.
    #[serde(skip)]
    raw: Vec<u8>,
}

#[derive(Deserialize)]
struct RequestParameters {
    /// Whether outputs are wanted as raw bytes where they do not say so themselves.
    binary_data_output: Option<bool>,
}

#[derive(Deserialize)]
struct InputTensor {
    name: String,
    shape: Vec<usize>,
    datatype: String,
    data: Option<Numbers>,
    parameters: Option<InputParameters>,
}

#[derive(Deserialize)]
struct InputParameters {
    /// Bytes of the tensor behind the JSON.
    binary_data_size: Option<usize>,
}

#[derive(Deserialize)]
struct RequestedOutput {
    name: String,
    parameters: Option<OutputParameters>,
}

#[derive(Deserialize)]
struct OutputParameters {
    binary_data: Option<bool>,
    classification: Option<serde_json::Value>,
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

/// Reads a request's body, of which the first `head` bytes are JSON; absent: all of it.
///
/// # Errors
/// [`ApiError::NotFinite`] where NaN or an infinity stands, though JSON has neither; [`ApiError::Malformed`].
pub(in crate::api) fn parse(body: &[u8], head: Option<usize>) -> Result<InferRequest, ApiError> {
    let head = head.unwrap_or(body.len());
    let Some((body, raw)) = body.split_at_checked(head) else {
        let words = format!("its JSON is said to have {head} bytes, the body has {}", body.len());
        return Err(ApiError::Malformed(words));
    };
    let read: Result<InferRequest, _> = serde_json::from_slice(body);
    read.map(|read| InferRequest { raw: raw.to_vec(), ..read }).map_err(|e| {
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
    /// Which of `known` outputs are wanted, and whether as raw bytes; all where none is named.
    ///
    /// # Errors
    /// [`ApiError::Shape`].
    pub(in crate::api) fn wanted<const N: usize>(
        &self,
        known: [&'static str; N],
    ) -> Result<[Option<bool>; N], ApiError> {
        let raw = self.parameters.as_ref().and_then(|all| all.binary_data_output).unwrap_or(false);
        let named = self.outputs.as_deref().unwrap_or_default();
        if let Some(unknown) = named.iter().find(|output| !known.contains(&&*output.name)) {
            return Err(ApiError::Shape(format!("the model has no output `{}`", unknown.name)));
        }
        let told = |output: &RequestedOutput| output.parameters.as_ref().and_then(|own| own.binary_data).unwrap_or(raw);
        if named.iter().any(|output| output.parameters.as_ref().is_some_and(|own| own.classification.is_some())) {
            return Err(ApiError::Shape(
                "the parameter `classification` is not served: `classes` are in the metadata".into(),
            ));
        }
        Ok(known.map(|name| {
            if named.is_empty() { Some(raw) } else { named.iter().find(|output| output.name == name).map(told) }
        }))
    }

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
        let finite = |numbers: &Numbers| numbers.0.iter().all(|v| v.is_finite());
        if !input.data.as_ref().is_none_or(finite) {
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
        let raw = input.parameters.as_ref().and_then(|own| own.binary_data_size);
        if raw.unwrap_or(0) != self.raw.len() {
            let (told, came) = (raw.unwrap_or(0), self.raw.len());
            return shape(format!("`binary_data_size` tells {told} bytes behind the JSON, {came} came"));
        }
        let values = match (&input.data, raw) {
            (Some(Numbers(values)), None) => values,
            (None, Some(bytes)) if bytes == n * size => {
                return Ok(self.raw.chunks(size).map(<[u8]>::to_vec).collect());
            }
            (None, Some(bytes)) => {
                return shape(format!("shape {:?} needs {} bytes, {bytes} came", input.shape, n * size));
            }
            (None, None) => return shape(format!("`{INPUT}` has neither `data` nor `binary_data_size`")),
            (Some(_), Some(_)) => return shape(format!("`{INPUT}` has both `data` and `binary_data_size`")),
        };
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
        parse(body.as_bytes(), None)?.pictures(1)
    }

    #[test]
    fn raw_bytes_are_the_same_pictures_and_their_number_must_fit() {
        let read = |parameters: &str, head: fn(usize) -> usize, raw: &[u8]| {
            let json = format!(
                r#"{{"inputs":[{{"name":"image","datatype":"UINT8","shape":[2,1,1,3]{parameters}}}],"outputs":null}}"#
            );
            parse(&[json.as_bytes(), raw].concat(), Some(head(json.len())))?.pictures(1)
        };
        let size = r#","parameters":{"binary_data_size":6}"#;
        assert_eq!(read(size, |n| n, &[0, 1, 2, 253, 254, 255]).unwrap(), [[0, 1, 2], [253, 254, 255]]);
        let both = r#","data":[0,1,2,3,4,5],"parameters":{"binary_data_size":6}"#;
        for (parameters, raw) in
            [(size, 5), (size, 7), ("", 6), (both, 6), (r#","parameters":{"binary_data_size":3}"#, 3), ("", 0)]
        {
            let refused = read(parameters, |n| n, &vec![0; raw]);
            assert!(matches!(refused, Err(ApiError::Shape(_))), "{parameters} {raw}: {refused:?}");
        }
        for head in [|n| n + 100, |n| n - 1] {
            assert!(matches!(read(size, head, &[0; 6]), Err(ApiError::Malformed(_))));
        }
    }

    #[test]
    fn outputs_are_raw_where_they_or_the_request_say_so() {
        let wanted = |more: &str| {
            let body = format!(r#"{{"inputs":[]{more}}}"#);
            parse(body.as_bytes(), None)?.wanted(["a", "b"])
        };
        assert_eq!(wanted("").unwrap(), [Some(false); 2]);
        assert_eq!(wanted(r#","parameters":{"binary_data_output":true}"#).unwrap(), [Some(true); 2]);
        assert_eq!(wanted(r#","outputs":[{"name":"b"}]"#).unwrap(), [None, Some(false)]);
        let own = r#","outputs":[{"name":"b","parameters":{"binary_data":true}},{"name":"a"}]"#;
        assert_eq!(wanted(own).unwrap(), [Some(false), Some(true)]);
        assert!(matches!(wanted(r#","outputs":[{"name":"c"}]"#), Err(ApiError::Shape(_))));
        let ranked = r#","outputs":[{"name":"a","parameters":{"classification":2}}]"#;
        assert!(matches!(wanted(ranked), Err(ApiError::Shape(_))));
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
