//! Emits the `Py_3_N` cfgs, by which `cpython/` chooses between interpreter versions.
fn main() {
    pyo3_build_config::use_pyo3_cfgs();
}
