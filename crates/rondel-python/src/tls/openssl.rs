//! The functions of the OpenSSL that the interpreter has loaded.
//!
//! They are looked up in the module `_ssl` and the libraries that it is linked with. No library is
//! loaded: a connection's `SSL *` is valid in that one copy of OpenSSL only. If a function is
//! missing, for example because OpenSSL is linked statically, there is no [`Functions`], and
//! Python's objects are used.

use std::ffi::{CString, c_char, c_int, c_long, c_ulong, c_void};
use std::ptr;

pub(super) enum Ssl {}
pub(super) enum Bio {}
pub(super) enum BioMethod {}

/// What the methods of a BIO are.
pub(super) type BioRead = unsafe extern "C" fn(*mut Bio, *mut c_char, c_int) -> c_int;
pub(super) type BioWrite = unsafe extern "C" fn(*mut Bio, *const c_char, c_int) -> c_int;
pub(super) type BioCtrl = unsafe extern "C" fn(*mut Bio, c_int, c_long, *mut c_void) -> c_long;
pub(super) type BioDestroy = unsafe extern "C" fn(*mut Bio) -> c_int;

/// `SSL_ERROR_WANT_READ`: more has to come from the peer.
pub(super) const WANT_READ: c_int = 2;
/// `SSL_ERROR_ZERO_RETURN`: the peer has said that it sends no more.
pub(super) const ZERO_RETURN: c_int = 6;
/// `SSL_RECEIVED_SHUTDOWN`, alone: we have not said the same.
pub(super) const RECEIVED_SHUTDOWN: c_int = 2;

/// Declares the table of functions, and how it is filled.
macro_rules! functions {
    ($($name:ident $symbol:literal: fn($($argument:ty),*) $(-> $result:ty)?;)+) => {
        /// The functions. Each is called with the signature that OpenSSL's headers have had since
        /// 1.1.1.
        pub(super) struct Functions {
            $(pub(super) $name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)+
        }

        impl Functions {
            /// Looks all of them up in an open library; `None` if one is missing.
            ///
            /// # Safety
            /// What the library has under these names are OpenSSL's functions.
            unsafe fn find(library: *mut c_void) -> Option<Self> {
                Some(Self {
                    $($name: {
                        // SAFETY: an open library and a NUL-terminated name.
                        let found = unsafe { libc::dlsym(library, $symbol.as_ptr()) };
                        if found.is_null() {
                            return None;
                        }
                        // SAFETY: guaranteed by the caller.
                        unsafe {
                            std::mem::transmute::<
                                *mut c_void,
                                unsafe extern "C" fn($($argument),*) $(-> $result)?,
                            >(found)
                        }
                    },)+
                })
            }
        }
    };
}

functions! {
    ssl_read c"SSL_read_ex": fn(*mut Ssl, *mut c_void, usize, *mut usize) -> c_int;
    ssl_write c"SSL_write_ex": fn(*mut Ssl, *const c_void, usize, *mut usize) -> c_int;
    ssl_get_error c"SSL_get_error": fn(*const Ssl, c_int) -> c_int;
    ssl_get_shutdown c"SSL_get_shutdown": fn(*const Ssl) -> c_int;
    ssl_pending c"SSL_pending": fn(*const Ssl) -> c_int;
    ssl_get_rbio c"SSL_get_rbio": fn(*const Ssl) -> *mut Bio;
    ssl_get_wbio c"SSL_get_wbio": fn(*const Ssl) -> *mut Bio;
    ssl_set_rbio c"SSL_set0_rbio": fn(*mut Ssl, *mut Bio);
    ssl_set_wbio c"SSL_set0_wbio": fn(*mut Ssl, *mut Bio);
    bio_new c"BIO_new": fn(*const BioMethod) -> *mut Bio;
    bio_free c"BIO_free": fn(*mut Bio) -> c_int;
    bio_get_data c"BIO_get_data": fn(*mut Bio) -> *mut c_void;
    bio_set_data c"BIO_set_data": fn(*mut Bio, *mut c_void);
    bio_set_init c"BIO_set_init": fn(*mut Bio, c_int);
    bio_set_flags c"BIO_set_flags": fn(*mut Bio, c_int);
    bio_clear_flags c"BIO_clear_flags": fn(*mut Bio, c_int);
    bio_get_new_index c"BIO_get_new_index": fn() -> c_int;
    bio_meth_new c"BIO_meth_new": fn(c_int, *const c_char) -> *mut BioMethod;
    bio_meth_set_read c"BIO_meth_set_read": fn(*mut BioMethod, BioRead) -> c_int;
    bio_meth_set_write c"BIO_meth_set_write": fn(*mut BioMethod, BioWrite) -> c_int;
    bio_meth_set_ctrl c"BIO_meth_set_ctrl": fn(*mut BioMethod, BioCtrl) -> c_int;
    bio_meth_set_destroy c"BIO_meth_set_destroy": fn(*mut BioMethod, BioDestroy) -> c_int;
    bio_s_mem c"BIO_s_mem": fn() -> *const BioMethod;
    bio_write c"BIO_write": fn(*mut Bio, *const c_void, c_int) -> c_int;
    bio_pending c"BIO_ctrl_pending": fn(*mut Bio) -> usize;
    bio_ctrl c"BIO_ctrl": fn(*mut Bio, c_int, c_long, *mut c_void) -> c_long;
    err_peek c"ERR_peek_error": fn() -> c_ulong;
    err_clear c"ERR_clear_error": fn();
    version c"OpenSSL_version_num": fn() -> c_ulong;
}

impl Functions {
    /// The functions that the shared object at `path`, which must be loaded already, was linked
    /// with.
    pub(super) fn of_loaded(path: &str) -> Option<Self> {
        let path = CString::new(path).ok()?;
        // SAFETY: nothing is loaded, so no code runs. The handle is never closed: the module can't
        // be unloaded either.
        let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD) };
        if library.is_null() {
            return None;
        }
        // SAFETY: the module `_ssl` is linked with nothing but OpenSSL under these names.
        let found = unsafe { Self::find(library)? };
        // SAFETY: takes nothing and gives a number. Before 1.1.1 CPython would not have been built
        // with it.
        (unsafe { (found.version)() } >= 0x1010_1000).then_some(found)
    }

    /// What a memory BIO holds, until it is written to or read from.
    ///
    /// # Safety
    /// `bio` is a live memory BIO.
    pub(super) unsafe fn content<'a>(&self, bio: *mut Bio) -> &'a [u8] {
        const BIO_CTRL_INFO: c_int = 3;
        let mut data: *mut c_char = ptr::null_mut();
        // SAFETY: guaranteed by the caller; the place for the pointer is valid.
        let len = unsafe { (self.bio_ctrl)(bio, BIO_CTRL_INFO, 0, (&raw mut data).cast()) };
        if data.is_null() || len <= 0 {
            return &[];
        }
        // SAFETY: the BIO has so many bytes there.
        unsafe { std::slice::from_raw_parts(data.cast(), len as usize) }
    }

    /// Empties a memory BIO.
    ///
    /// # Safety
    /// `bio` is a live memory BIO.
    pub(super) unsafe fn reset(&self, bio: *mut Bio) {
        const BIO_CTRL_RESET: c_int = 1;
        // SAFETY: guaranteed by the caller.
        unsafe { (self.bio_ctrl)(bio, BIO_CTRL_RESET, 0, ptr::null_mut()) };
    }
}

/// Sizes that OpenSSL takes as `int` are cut to this.
pub(super) const MAX_INT: usize = c_int::MAX as usize;
