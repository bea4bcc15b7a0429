//! What the OCI image specification 1.1 asks for: references, configuration, layers, the layout folder, archives.

pub mod archive;
pub mod config;
pub mod layer;
pub mod layout;
pub mod reference;
