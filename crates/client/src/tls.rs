//! The one crypto provider of the process, aws-lc-rs. An application that has chosen another keeps it.

/// Chooses the provider unless one has been chosen. Needed by every client that may speak TLS, before it is built.
pub(crate) fn choose_provider() {
    // An error means that there is one already, which is just as well.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
}
