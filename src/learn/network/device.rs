//! Where a network is trained: on the CPU, or on an NVIDIA GPU; the machine, for the record.
//!
//! Invariant: a GPU that was asked for is used, or the command fails; training never falls back silently.

use std::ffi::CStr;

use anyhow::{Context, bail, ensure};
use tch::{Cuda, Device};

/// libtorch's CUDA half. It is loaded only when it is wanted, so that one program serves machines with and without.
const CUDA_HALF: &CStr = c"libtorch_cuda.so";

/// The device `cpu`, `cuda` or `cuda:<number>`.
///
/// # Errors
/// An unknown name, a libtorch without its CUDA half, no such GPU.
pub fn open(name: &str) -> anyhow::Result<Device> {
    let number = match (name, name.strip_prefix("cuda:").map(str::parse)) {
        ("cpu", _) => return Ok(Device::Cpu),
        ("cuda", _) => 0,
        (_, Some(Ok(number))) => number,
        _ => bail!("device `{name}` is unknown: use cpu, cuda or cuda:<number>"),
    };
    // SAFETY: libtorch_cuda's initialisers register its kernels with the libtorch that is loaded already, as they do when
    // Python loads it; nothing of it is called here.
    #[allow(unsafe_code)]
    let (loaded, why) = unsafe {
        let loaded = !libc::dlopen(CUDA_HALF.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL).is_null();
        let why = if loaded { String::new() } else { CStr::from_ptr(libc::dlerror()).to_string_lossy().into_owned() };
        (loaded, why)
    };
    ensure!(
        loaded,
        "--device {name} needs a libtorch with CUDA; put the whole one of the same version on LD_LIBRARY_PATH: {why}"
    );
    ensure!(Cuda::is_available(), "--device {name}: the driver shows no GPU");
    ensure!(number < Cuda::device_count() as usize, "--device {name}: there are {} GPUs", Cuda::device_count());
    Cuda::cudnn_set_benchmark(true); // the sizes stay the same from step to step
    Ok(Device::Cuda(number))
}

/// Processor, cores and GPU, for the record.
pub fn machine(device: Device) -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let model = info.lines().find_map(|l| l.strip_prefix("model name")).and_then(|l| l.split(':').nth(1));
    let cores = beltsight::student::engine::cores();
    let gpu = match device {
        Device::Cuda(number) => gpu(number),
        _ => "no GPU used".into(),
    };
    format!("{}, {cores} cores, {gpu}", model.unwrap_or("unknown processor").trim())
}

/// What the driver calls the GPU, for the record.
fn gpu(number: usize) -> String {
    let model = || {
        let mut cards: Vec<_> =
            std::fs::read_dir("/proc/driver/nvidia/gpus")?.filter_map(Result::ok).map(|e| e.path()).collect();
        cards.sort();
        let text = std::fs::read_to_string(cards.get(number).context("no such card")?.join("information"))?;
        let line = text.lines().find_map(|l| l.strip_prefix("Model:")).context("no model")?;
        anyhow::Ok(line.trim().to_string())
    };
    model().unwrap_or_else(|_| "unknown GPU".into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_not_there_is_refused_in_words() {
        assert_eq!(open("cpu").unwrap(), Device::Cpu);
        assert!(open("gpu").unwrap_err().to_string().contains("use cpu, cuda or cuda:<number>"));
        let why = open("cuda:99").unwrap_err().to_string();
        assert!(why.starts_with("--device cuda:99"), "{why}");
    }
}
