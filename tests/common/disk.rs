//! A small disk that gets full.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

/// A small disk of its own, in a folder of its own; unmounted when dropped.
pub struct Disk(PathBuf);

impl Disk {
    /// Mounts it; `None`, with the reason printed, where that is not allowed.
    pub fn mount(at: &Path, size: &str) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(at).output();
        if !done.as_ref().is_ok_and(|out| out.status.success()) {
            println!("skipped: a tmpfs can't be mounted here: {done:?}");
            return None;
        }
        Some(Self(at.into()))
    }

    /// Fills it to the last byte, with a file that can be removed again.
    pub fn fill(&self) -> PathBuf {
        let path = self.0.join("filler");
        let mut file = File::create(&path).unwrap();
        for size in [1 << 16, 1 << 12, 1] {
            while file.write_all(&vec![1; size]).is_ok() {}
        }
        path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        let _ = std::fs::remove_dir_all(self.0.parent().unwrap()); // which could not be removed while this was mounted
    }
}
