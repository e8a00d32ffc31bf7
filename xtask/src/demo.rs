//! `cargo xtask demo`: the seam where the demonstration goes. It is not built yet, and says so.

use anyhow::{Result, bail};

pub fn run(_args: &[String]) -> Result<()> {
    bail!("`cargo xtask demo` is not built yet")
}
