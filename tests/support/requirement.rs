//! Programs that a test calls and that a machine may not have.
//!
//! Where one is missing the test says so and is skipped; in CI, where `.ci/install` has put it
//! there, missing is a failure.

use std::{
    env,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// Where the program is, or `None` after saying that this test is skipped.
///
/// # Panics
///
/// Under `CI=true`: a check that CI silently leaves out is not a check.
pub(crate) fn program(name: &str, install_hint: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    // Servers are not in everybody's PATH.
    let dirs = env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    let found = dirs.map(|dir| dir.join(name)).find(|file| is_executable(file));
    if found.is_none() {
        let skipped = format!("SKIPPED: {name} is not installed ({install_hint})");
        assert!(env::var_os("CI").is_none_or(|ci| ci != "true"), "{skipped}");
        println!("{skipped}");
    }
    found
}

fn is_executable(file: &Path) -> bool {
    file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}
