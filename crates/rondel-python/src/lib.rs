//! The extension module `rondel._rondel`.
use pyo3::prelude::*;

/// The native part of the package `rondel`.
#[pymodule]
fn _rondel(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("__version__", env!("CARGO_PKG_VERSION"))?;
    Ok(())
}
