//! ONNX Runtime: the only module that imports `ort`.
//!
//! The library is loaded at run time, so that one binary serves CPU and GPU: it is looked for at `ORT_DYLIB_PATH`, then
//! as `libonnxruntime.so*` in `.vendor/onnxruntime/` beside the working directory and in the folders above the program.

use std::{
    path::PathBuf,
    str::FromStr,
    sync::{Mutex, OnceLock},
};

use ndarray::{Array2, Array4, ArrayView4, Ix2};
use ort::{
    environment::Environment,
    ep,
    session::{Session, builder::GraphOptimizationLevel},
    value::TensorRef,
};
use serde::{Deserialize, Serialize};

/// Where inference runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Device {
    /// CUDA if it really works here, otherwise the CPU; what was taken is logged, in `/readyz` and in a metric.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// CUDA on this GPU; starting fails if it can't run.
    Cuda(u32),
    /// TensorRT on the first GPU; starting fails if it can't run.
    TensorRt,
}

impl FromStr for Device {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Device::Auto),
            "cpu" => Ok(Device::Cpu),
            "cuda" => Ok(Device::Cuda(0)),
            "tensorrt" => Ok(Device::TensorRt),
            _ => {
                text.strip_prefix("cuda:").and_then(|n| n.parse().ok()).map(Device::Cuda).ok_or_else(|| {
                    format!("device `{text}` is unknown: use auto, cpu, cuda, cuda:<number> or tensorrt")
                })
            }
        }
    }
}

impl TryFrom<String> for Device {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Device::Auto => f.write_str("auto"),
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(n) => write!(f, "cuda:{n}"),
            Device::TensorRt => f.write_str("tensorrt"),
        }
    }
}

impl From<Device> for String {
    fn from(device: Device) -> String {
        device.to_string()
    }
}

/// What can go wrong between us and ONNX Runtime.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The shared library is missing or too old.
    #[error(
        "ONNX Runtime could not be loaded ({0}): run `deploy/setup` or set ORT_DYLIB_PATH to libonnxruntime.so (1.24 or later)"
    )]
    Library(String),
    /// The wanted provider can't run here.
    #[error("device {device} can't be used here: {why}")]
    Device {
        /// The device asked for.
        device: Device,
        /// ONNX Runtime's words.
        why: String,
    },
    /// The graph was refused.
    #[error("the ONNX graph can't be used: {0}")]
    Graph(String),
    /// Running failed.
    #[error("inference failed: {0}")]
    Run(String),
}

/// Path of the ONNX Runtime library that would be loaded.
///
/// # Errors
/// [`EngineError::Library`] with the places looked at.
pub fn library_path() -> Result<PathBuf, EngineError> {
    if let Some(path) = std::env::var_os("ORT_DYLIB_PATH").filter(|p| !p.is_empty()) {
        let path = PathBuf::from(path);
        return if path.is_file() {
            Ok(path)
        } else {
            Err(EngineError::Library(format!("ORT_DYLIB_PATH names {}, which is not a file", path.display())))
        };
    }
    let roots = std::env::current_dir().into_iter().chain(
        std::env::current_exe()
            .into_iter()
            .flat_map(|exe| exe.ancestors().skip(1).map(PathBuf::from).collect::<Vec<_>>()),
    );
    for root in roots {
        let folder = root.join(".vendor/onnxruntime");
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        let found = entries
            .flatten()
            .map(|e| e.path())
            .find(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("libonnxruntime.so")));
        if let Some(path) = found {
            return Ok(path);
        }
    }
    Err(EngineError::Library("no .vendor/onnxruntime/libonnxruntime.so* here or above the program".into()))
}

/// Loads the library once per process; later calls return the same environment.
///
/// # Errors
/// [`EngineError::Library`].
pub fn runtime() -> Result<&'static Environment, EngineError> {
    static ENVIRONMENT: OnceLock<Environment> = OnceLock::new();
    static OPENING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = OPENING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(environment) = ENVIRONMENT.get() {
        return Ok(environment);
    }
    let path = library_path()?;
    let library = |e: &dyn std::fmt::Display| EngineError::Library(format!("{}: {e}", path.display()));
    let environment =
        ort::init_from(&path).map_err(|e| library(&e))?.with_telemetry(false).build().map_err(|e| library(&e))?;
    Ok(ENVIRONMENT.get_or_init(|| environment))
}

/// ONNX Runtime's own description of its build.
///
/// # Errors
/// [`EngineError::Library`].
pub fn build_info() -> Result<&'static str, EngineError> {
    runtime().map(|_| ort::info())
}

/// CPU cores that this process may use: the smaller of affinity mask and cgroup quota.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, Into::into)
}

/// A batch's outputs.
#[derive(Clone, Debug)]
pub struct Outputs {
    /// `[batch, classes]`, before softmax.
    pub logits: Array2<f32>,
    /// `[batch, features]`.
    pub embedding: Array2<f32>,
}

/// An open session for a classifier with one input `image` (uint8, `[batch, side, side, 3]`) and the outputs `logits`
/// and `embedding`.
pub struct Engine {
    session: Session,
    provider: &'static str,
    side: usize,
    classes: usize,
    padded: Option<usize>,
}

impl Engine {
    /// Opens ONNX bytes on `device` with `threads` threads inside an operator (0: as many as [`cores`]).
    ///
    /// # Errors
    /// Library, device or graph, with what is wrong. With [`Device::Auto`] a missing GPU is not an error.
    pub fn open(onnx: &[u8], device: Device, threads: usize) -> Result<Self, EngineError> {
        let environment = runtime()?;
        let (session, provider) = match device {
            Device::Auto => match open_session(environment, onnx, Device::Cuda(0), threads) {
                Ok(session) => (session, "cuda"),
                Err(_) => (open_session(environment, onnx, Device::Cpu, threads)?, "cpu"),
            },
            Device::Cpu => (open_session(environment, onnx, device, threads)?, "cpu"),
            Device::Cuda(_) => (open_session(environment, onnx, device, threads)?, "cuda"),
            Device::TensorRt => (open_session(environment, onnx, device, threads)?, "tensorrt"),
        };
        let graph = |why: &str| EngineError::Graph(why.into());
        let input = session.inputs().first().ok_or_else(|| graph("it has no input"))?;
        let shape = input.dtype().tensor_shape().ok_or_else(|| graph("its input is not a tensor"))?.to_vec();
        let is_u8 = input.dtype().tensor_type() == Some(ort::value::TensorElementType::Uint8);
        let side = match shape[..] {
            [_, h, w, 3] if is_u8 && h == w && h > 0 && input.name() == "image" => h as usize,
            _ => return Err(graph("its input must be `image`, uint8 [batch, side, side, 3]")),
        };
        let width = |name: &str| {
            session
                .outputs()
                .iter()
                .find(|o| o.name() == name)
                .and_then(|o| o.dtype().tensor_shape().and_then(|s| s.last().copied()))
                .filter(|n| *n > 0)
                .ok_or_else(|| EngineError::Graph(format!("it has no output `{name}` of known width")))
        };
        let classes = width("logits")? as usize;
        width("embedding")?;
        Ok(Self { session, provider, side, classes, padded: None })
    }

    /// Fills every batch up to `size` with blanks, so that the session only ever meets one size. ONNX Runtime plans every
    /// convolution again whenever the size changes on a GPU: on an H100 that took 0.3 to 0.9 s, the batch itself a
    /// millisecond, and blanks next to nothing.
    pub fn padded(self, size: usize) -> Self {
        Self { padded: Some(size), ..self }
    }

    /// The size that batches are filled up to, if they are.
    pub fn pads_to(&self) -> Option<usize> {
        self.padded
    }

    /// The provider that runs: `cpu`, `cuda` or `tensorrt`.
    pub fn provider(&self) -> &'static str {
        self.provider
    }

    /// Side of the square input in pixels.
    pub fn side(&self) -> usize {
        self.side
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Runs a batch of `[n, side, side, 3]` RGB bytes.
    ///
    /// # Errors
    /// [`EngineError::Run`]; also for a batch larger than a padded session's size.
    pub fn run(&mut self, batch: ArrayView4<'_, u8>) -> Result<Outputs, EngineError> {
        let n = batch.shape()[0];
        let Some(size) = self.padded.filter(|&size| size != n) else { return self.run_as_is(batch) };
        if n > size {
            return Err(EngineError::Run(format!("a batch of {n} was given to a session for {size}")));
        }
        let mut whole = Array4::zeros((size, self.side, self.side, 3));
        whole.slice_mut(ndarray::s![..n, .., .., ..]).assign(&batch);
        let Outputs { logits, embedding } = self.run_as_is(whole.view())?;
        let first = |rows: Array2<f32>| rows.slice_move(ndarray::s![..n, ..]);
        Ok(Outputs { logits: first(logits), embedding: first(embedding) })
    }

    fn run_as_is(&mut self, batch: ArrayView4<'_, u8>) -> Result<Outputs, EngineError> {
        let run = |e: &dyn std::fmt::Display| EngineError::Run(e.to_string());
        let input = TensorRef::from_array_view(batch).map_err(|e| run(&e))?;
        let outputs = self.session.run(ort::inputs!["image" => input]).map_err(|e| run(&e))?;
        let take = |name: &str| -> Result<Array2<f32>, EngineError> {
            let array = outputs[name].try_extract_array::<f32>().map_err(|e| run(&e))?;
            Ok(array.into_dimensionality::<Ix2>().map_err(|e| run(&e))?.to_owned())
        };
        Ok(Outputs { logits: take("logits")?, embedding: take("embedding")? })
    }

    /// Runs every picture in chunks of `batch`; pictures are `side * side * 3` bytes each.
    ///
    /// # Errors
    /// [`EngineError::Run`].
    pub fn run_all(&mut self, pictures: &[Vec<u8>], batch: usize) -> Result<Outputs, EngineError> {
        let mut logits = Array2::zeros((0, self.classes));
        let mut embedding: Option<Array2<f32>> = None;
        for chunk in pictures.chunks(batch.max(1)) {
            let out = self.run(stack(chunk, self.side)?.view())?;
            let joined = |a: &mut Array2<f32>, b: &Array2<f32>| {
                a.append(ndarray::Axis(0), b.view()).map_err(|e| EngineError::Run(e.to_string()))
            };
            joined(&mut logits, &out.logits)?;
            match &mut embedding {
                Some(all) => joined(all, &out.embedding)?,
                None => embedding = Some(out.embedding),
            }
        }
        Ok(Outputs { logits, embedding: embedding.unwrap_or_else(|| Array2::zeros((0, 0))) })
    }
}

/// Stacks pictures of `side * side * 3` bytes into `[n, side, side, 3]`.
///
/// # Errors
/// [`EngineError::Run`] when a picture has another size.
pub fn stack(pictures: &[Vec<u8>], side: usize) -> Result<Array4<u8>, EngineError> {
    if let Some(wrong) = pictures.iter().find(|p| p.len() != side * side * 3) {
        return Err(EngineError::Run(format!(
            "a picture has {} bytes, the net takes {}",
            wrong.len(),
            side * side * 3
        )));
    }
    Array4::from_shape_vec((pictures.len(), side, side, 3), pictures.concat())
        .map_err(|e| EngineError::Run(e.to_string()))
}

/// Any image classifier in ONNX: one input, uint8 `[n, side, side, 3]` or float `[n, 3, side, side]`; the output `logits`
/// or the first one. Runs on the CPU.
pub struct Classifier {
    session: Session,
    input: String,
    output: String,
    side: usize,
    bytes: bool,
    mean: [f32; 3],
    std: [f32; 3],
}

impl Classifier {
    /// Opens ONNX bytes; a float input is given `(x / 255 − mean) / std`.
    ///
    /// # Errors
    /// Library or graph, with what is wrong.
    pub fn open(onnx: &[u8], mean: [f32; 3], std: [f32; 3]) -> Result<Self, EngineError> {
        use ort::value::TensorElementType::{Float32, Uint8};
        let session = open_session(runtime()?, onnx, Device::Cpu, 0)?;
        let graph = |why: &str| EngineError::Graph(why.into());
        let input = session.inputs().first().ok_or_else(|| graph("it has no input"))?;
        let shape = input.dtype().tensor_shape().ok_or_else(|| graph("its input is not a tensor"))?.to_vec();
        let (side, bytes) = match (&shape[..], input.dtype().tensor_type()) {
            ([_, h, w, 3], Some(Uint8)) if h == w && *h > 0 => (*h as usize, true),
            ([_, 3, h, w], Some(Float32)) if h == w && *h > 0 => (*h as usize, false),
            _ => {
                return Err(graph(
                    "its input must be uint8 [n, side, side, 3] or float [n, 3, side, side] of a fixed side",
                ));
            }
        };
        let named = session.outputs().iter().find(|o| o.name() == "logits").or(session.outputs().first());
        let output = named.ok_or_else(|| graph("it has no output"))?.name().to_owned();
        let input = input.name().to_owned();
        Ok(Self { session, input, output, side, bytes, mean, std })
    }

    /// Side of the square input in pixels.
    pub fn side(&self) -> usize {
        self.side
    }

    /// Logits `[n, classes]` of pictures of `side * side * 3` bytes.
    ///
    /// # Errors
    /// [`EngineError::Run`].
    pub fn run(&mut self, pictures: &[Vec<u8>]) -> Result<Array2<f32>, EngineError> {
        let run = |e: &dyn std::fmt::Display| EngineError::Run(e.to_string());
        let batch = stack(pictures, self.side)?;
        let outputs = if self.bytes {
            let input = TensorRef::from_array_view(batch.view()).map_err(|e| run(&e))?;
            self.session.run(ort::inputs![self.input.as_str() => input])
        } else {
            let planes = Array4::from_shape_fn((pictures.len(), 3, self.side, self.side), |(n, c, y, x)| {
                (f32::from(batch[(n, y, x, c)]) / 255.0 - self.mean[c]) / self.std[c]
            });
            let input = TensorRef::from_array_view(planes.view()).map_err(|e| run(&e))?;
            self.session.run(ort::inputs![self.input.as_str() => input])
        }
        .map_err(|e| run(&e))?;
        let logits = outputs[self.output.as_str()].try_extract_array::<f32>().map_err(|e| run(&e))?;
        Ok(logits.into_dimensionality::<Ix2>().map_err(|e| run(&e))?.to_owned())
    }
}

/// A trunk: a session whose one output is `activations` (see [`crate::network::onnx::export_trunk`]), on the CPU.
pub struct Trunk {
    session: Session,
    side: usize,
}

impl Trunk {
    /// Opens ONNX bytes that take pictures of `side`.
    ///
    /// # Errors
    /// Library or graph, with what is wrong.
    pub fn open(onnx: &[u8], side: usize) -> Result<Self, EngineError> {
        Ok(Self { session: open_session(runtime()?, onnx, Device::Cpu, 0)?, side })
    }

    /// Shape and row-major values of the activations of pictures of `side * side * 3` bytes.
    ///
    /// # Errors
    /// [`EngineError::Run`].
    pub fn run(&mut self, pictures: &[Vec<u8>]) -> Result<(Vec<usize>, Vec<f32>), EngineError> {
        let run = |e: &dyn std::fmt::Display| EngineError::Run(e.to_string());
        let batch = stack(pictures, self.side)?;
        let input = TensorRef::from_array_view(batch.view()).map_err(|e| run(&e))?;
        let outputs = self.session.run(ort::inputs!["image" => input]).map_err(|e| run(&e))?;
        let (shape, values) = outputs["activations"].try_extract_tensor::<f32>().map_err(|e| run(&e))?;
        Ok((shape.iter().map(|n| *n as usize).collect(), values.to_vec()))
    }
}

/// Runs pictures of `side * side * 3` bytes one by one on the CPU and hands `each` the values of the outputs `names`:
/// `each(index of the name, values)`. Serves calibration: ranges are taken without keeping activations.
///
/// # Errors
/// Library, graph or run, with what is wrong.
pub fn observe(
    onnx: &[u8],
    pictures: &[Vec<u8>],
    side: usize,
    names: &[String],
    mut each: impl FnMut(usize, &[f32]),
) -> Result<(), EngineError> {
    let run = |e: &dyn std::fmt::Display| EngineError::Run(e.to_string());
    let mut session = open_session(runtime()?, onnx, Device::Cpu, 0)?;
    for picture in pictures {
        let batch = stack(std::slice::from_ref(picture), side)?;
        let input = TensorRef::from_array_view(batch.view()).map_err(|e| run(&e))?;
        let outputs = session.run(ort::inputs!["image" => input]).map_err(|e| run(&e))?;
        for (index, name) in names.iter().enumerate() {
            let output = outputs.get(name).ok_or_else(|| EngineError::Run(format!("there is no output `{name}`")))?;
            let (_, values) = output.try_extract_tensor::<f32>().map_err(|e| run(&e))?;
            each(index, values);
        }
    }
    Ok(())
}

/// True where uint8 × int8 products are summed exactly. Older x86 CPUs add pairs of them in 16 bits, which saturates.
fn sums_int8_exactly() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx512vnni") || is_x86_feature_detected!("avxvnni");
    #[cfg(not(target_arch = "x86_64"))]
    true
}

fn open_session(
    environment: &Environment,
    onnx: &[u8],
    device: Device,
    threads: usize,
) -> Result<Session, EngineError> {
    let providers: Vec<_> = match device {
        Device::Auto | Device::Cpu => vec![],
        Device::Cuda(n) => vec![cuda(n)],
        Device::TensorRt => vec![ep::TensorRT::default().build().error_on_failure(), cuda(0)],
    };
    let graph = |e: ort::Error| EngineError::Graph(e.to_string());
    let builder = Session::builder(environment).map_err(graph)?;
    let threads = if threads == 0 { cores() } else { threads };
    let configure = || -> ort::Result<_> {
        Ok(builder
            .with_optimization_level(GraphOptimizationLevel::All)?
            .with_intra_threads(threads)?
            // Spinning threads would take the cores that decoding and the belt need.
            .with_intra_op_spinning(false)?)
    };
    let mut builder = configure().map_err(graph)?;
    if !sums_int8_exactly() {
        // ONNX Runtime then multiplies uint8 by uint8: slower, but the answers are those of other machines.
        builder = builder
            .with_config_entry("session.x64quantprecision", "1")
            .map_err(|e| EngineError::Graph(e.to_string()))?;
    }
    let mut builder =
        builder.with_execution_providers(providers).map_err(|e| EngineError::Device { device, why: e.to_string() })?;
    builder.commit_from_memory(onnx).map_err(graph)
}

/// CUDA as the line needs it. By default ONNX Runtime tries every algorithm of every convolution whenever it meets another
/// batch size: on an H100 2.4 s for one micro-batch of the smallest student, and a belt does not wait. It also computes in
/// TF32, whose probabilities were up to 0.004 from the CPU's; without it they are within 2e-6.
fn cuda(number: u32) -> ep::ExecutionProviderDispatch {
    ep::CUDA::default()
        .with_device_id(number as i32)
        .with_conv_algorithm_search(ep::cuda::ConvAlgorithmSearch::Heuristic)
        .with_tf32(false)
        .build()
        .error_on_failure()
}

/// Softmax of one row at `temperature`, in f64 inside.
pub fn softmax(logits: &[f32], temperature: f32) -> Vec<f32> {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exponents: Vec<f64> = logits.iter().map(|z| (f64::from(z - top) / f64::from(temperature)).exp()).collect();
    let sum: f64 = exponents.iter().sum();
    exponents.iter().map(|e| (e / sum) as f32).collect()
}
