//! Builds a graph node by node.
//!
//! Invariant: every value has one writer; [`Graph::node`] names a node's single output after itself.

use prost::Message;

use super::proto::{
    AttributeProto, DimensionProto, FLOAT, GraphProto, INT, INT8, INT32, INTS, ModelProto, NodeProto,
    OperatorSetIdProto, TensorProto, TensorShapeProto, TensorTypeProto, TypeProto, UINT8, ValueInfoProto,
};

/// Operator set: 13 brought per-channel (de)quantisation; 17 is read by every ONNX Runtime since 1.12.
const OPSET: i64 = 17;
/// File format version that belongs to it.
const IR_VERSION: i64 = 8;

/// Size along one dimension.
#[derive(Clone, Copy)]
pub enum Dim {
    /// The symbolic `batch`.
    Batch,
    /// Known.
    Fixed(usize),
    /// Unknown (calibration outputs only).
    Any,
}

/// A graph under construction.
#[derive(Default)]
pub struct Graph(GraphProto);

/// A whole-number attribute.
pub fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { name: name.into(), i: value, r#type: INT, ..Default::default() }
}

/// A real attribute.
pub fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto { name: name.into(), f: value, r#type: super::proto::FLOAT_ATTRIBUTE, ..Default::default() }
}

/// A list of whole numbers as attribute.
pub fn ints(name: &str, values: impl IntoIterator<Item = usize>) -> AttributeProto {
    let ints = values.into_iter().map(|v| v as i64).collect();
    AttributeProto { name: name.into(), ints, r#type: INTS, ..Default::default() }
}

impl Graph {
    /// Adds `op` reading `inputs`, and returns the name of its output, which is `name`.
    pub fn node(&mut self, op: &str, name: &str, inputs: &[&str], attribute: Vec<AttributeProto>) -> String {
        self.0.node.push(NodeProto {
            input: inputs.iter().map(|&i| i.into()).collect(),
            output: vec![name.into()],
            name: name.into(),
            op_type: op.into(),
            attribute,
        });
        name.into()
    }

    /// Adds a float constant.
    pub fn floats(&mut self, name: &str, shape: &[usize], data: &[f32]) -> String {
        self.constant(name, shape, FLOAT, data.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// Adds an int8 constant.
    pub fn i8s(&mut self, name: &str, shape: &[usize], data: &[i8]) -> String {
        self.constant(name, shape, INT8, data.iter().map(|v| *v as u8).collect())
    }

    /// Adds a uint8 scalar.
    pub fn u8(&mut self, name: &str, value: u8) -> String {
        self.constant(name, &[], UINT8, vec![value])
    }

    /// Adds an int32 constant.
    pub fn i32s(&mut self, name: &str, shape: &[usize], data: &[i32]) -> String {
        self.constant(name, shape, INT32, data.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    fn constant(&mut self, name: &str, shape: &[usize], data_type: i32, raw_data: Vec<u8>) -> String {
        let dims = shape.iter().map(|d| *d as i64).collect();
        self.0.initializer.push(TensorProto { dims, data_type, name: name.into(), raw_data });
        name.into()
    }

    /// Declares the input `image`: uint8, `[batch, side, side, 3]`.
    pub fn image(&mut self, side: usize) -> String {
        let shape = [Dim::Batch, Dim::Fixed(side), Dim::Fixed(side), Dim::Fixed(3)];
        self.0.input.push(value("image", UINT8, &shape));
        "image".into()
    }

    /// Declares a float output.
    pub fn output(&mut self, name: &str, shape: &[Dim]) {
        self.0.output.push(value(name, FLOAT, shape));
    }

    /// The finished file.
    pub fn encode(mut self, name: &str) -> Vec<u8> {
        self.0.name = name.into();
        ModelProto {
            ir_version: IR_VERSION,
            producer_name: "beltsight".into(),
            graph: Some(self.0),
            opset_import: vec![OperatorSetIdProto { domain: String::new(), version: OPSET }],
        }
        .encode_to_vec()
    }
}

fn value(name: &str, elem_type: i32, shape: &[Dim]) -> ValueInfoProto {
    let dim = shape
        .iter()
        .map(|dim| match dim {
            Dim::Batch => DimensionProto { dim_value: None, dim_param: Some("batch".into()) },
            Dim::Fixed(n) => DimensionProto { dim_value: Some(*n as i64), dim_param: None },
            Dim::Any => DimensionProto { dim_value: None, dim_param: None },
        })
        .collect();
    let tensor_type = TensorTypeProto { elem_type, shape: Some(TensorShapeProto { dim }) };
    ValueInfoProto { name: name.into(), r#type: Some(TypeProto { tensor_type: Some(tensor_type) }) }
}
