//! `beltsight doctor`: what this machine has and lacks, and how to mend each lack.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use super::DEFAULT_CONFIG;
use crate::{
    config::Config,
    network,
    student::{
        engine::{self, Device, Engine},
        manifest::{self, Manifest},
    },
};

/// Say what this machine has and lacks.
#[derive(clap::Args)]
pub struct DoctorArgs {
    /// Configuration file, for the folders of models and data.
    #[arg(long, default_value = DEFAULT_CONFIG)]
    config: PathBuf,
}

/// Prints one line per check; fails when something that serving needs is missing.
///
/// # Errors
/// When the configuration can't be read.
pub fn run(args: &DoctorArgs) -> anyhow::Result<ExitCode> {
    let config = Config::read(&args.config)?;
    let mut code = ExitCode::SUCCESS;
    for check in checks(&config.model.root, &config.store.folder) {
        match check.found {
            Ok(found) => println!("ok       {:<18} {found}", check.what),
            Err(mend) if check.needed => {
                println!("MISSING  {:<18} {mend}", check.what);
                code = ExitCode::FAILURE;
            }
            Err(mend) => println!("absent   {:<18} {mend}", check.what),
        }
    }
    Ok(code)
}

struct Check {
    what: &'static str,
    /// What was found; an `Err` says how to mend it.
    found: Result<String, String>,
    /// Whether serving needs it.
    needed: bool,
}

fn checks(models: &Path, data: &Path) -> Vec<Check> {
    let check = |what, needed, found| Check { what, needed, found };
    vec![
        check("ONNX Runtime", true, runtime()),
        check("provider cpu", true, provider(Device::Cpu)),
        check("provider cuda", false, provider(Device::Cuda(0))),
        check("provider tensorrt", false, provider(Device::TensorRt)),
        check("CPU cores", true, Ok(format!("{} may be used (affinity and cgroup quota)", engine::cores()))),
        check("model", true, newest_model(models)),
        check("disk", true, disk(data)),
        check("cameras", false, cameras()),
        check("learning", false, learning()),
    ]
}

fn runtime() -> Result<String, String> {
    let path = engine::library_path().map_err(|e| e.to_string())?;
    engine::build_info().map(|info| format!("{} ({info})", path.display())).map_err(|e| e.to_string())
}

/// Runs a tiny network, because a provider that registers may still fail to run.
fn provider(device: Device) -> Result<String, String> {
    let net = network::small(32);
    let onnx = network::onnx::export(&net, &network::onnx::blank_weights(&net, 2), 2).map_err(|e| e.to_string())?;
    let mut engine = Engine::open(&onnx, device, 1).map_err(|e| e.to_string())?;
    crate::student::open::warm_up(&mut engine, 1).map_err(|e| e.to_string())?;
    Ok("runs".into())
}

fn newest_model(root: &Path) -> Result<String, String> {
    let mend = "train one with `beltsight train supervised --data DIR --out DIR`";
    let folders = manifest::list(root).map_err(|e| format!("{}: {e}; {mend}", root.display()))?;
    let names: Vec<String> = folders
        .iter()
        .map(|folder| match Manifest::read(folder).and_then(|m| m.onnx(folder, &m.serve).map(|_| m)) {
            Ok(manifest) => format!("{} ({})", manifest.version, manifest.serve),
            Err(e) => format!("BROKEN: {e}"),
        })
        .collect();
    if names.is_empty() { Err(format!("no model under {}; {mend}", root.display())) } else { Ok(names.join(", ")) }
}

fn disk(folder: &Path) -> Result<String, String> {
    let existing = folder.ancestors().find(|f| f.exists() && !f.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let free = free_bytes(existing)? as f64 / f64::from(1 << 30);
    if free < 1.0 {
        return Err(format!("{free:.1} GiB free at {}; frames need at least 1: free some", existing.display()));
    }
    Ok(format!("{free:.0} GiB free at {}", existing.display()))
}

#[allow(unsafe_code)] // statvfs fills a plain struct; the path is a valid C string
fn free_bytes(folder: &Path) -> Result<u64, String> {
    let path = std::ffi::CString::new(folder.as_os_str().as_encoded_bytes()).map_err(|e| e.to_string())?;
    let mut stat = std::mem::MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: `path` lives through the call and `stat` is large enough; it is read only after success.
    unsafe {
        if libc::statvfs(path.as_ptr(), stat.as_mut_ptr()) != 0 {
            return Err(std::io::Error::last_os_error().to_string());
        }
        let stat = stat.assume_init();
        Ok(stat.f_bavail * stat.f_frsize)
    }
}

fn cameras() -> Result<String, String> {
    let mut found: Vec<String> = std::fs::read_dir("/sys/class/video4linux")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| {
            let name = std::fs::read_to_string(entry.path().join("name")).unwrap_or_default();
            format!("/dev/{} ({})", entry.file_name().to_string_lossy(), name.trim())
        })
        .collect();
    found.sort();
    if found.is_empty() {
        return Err("no V4L2 device; plug a camera in, or use `source = \"simulated\"` or `\"folder\"`".into());
    }
    Ok(found.join(", "))
}

fn learning() -> Result<String, String> {
    let program = std::env::current_exe().map_err(|e| e.to_string())?.with_file_name("beltsight-learn");
    if program.is_file() {
        Ok(program.display().to_string())
    } else {
        Err("beltsight-learn is not built: `deploy/setup --learn`, then `cargo build --features learn`".into())
    }
}
