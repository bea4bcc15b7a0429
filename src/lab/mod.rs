//! The namespaces lab: lessons which a student does with the kernel's own tools, and checkers which look at the kernel.
//!
//! A lesson is one YAML file ([`lesson`]); those of podshim are in the binary, an instructor's are in a directory. One user has
//! one lesson at a time ([`session`]): it has a workspace (`$LAB`, a tmpfs), a cgroup, and a name that everything it makes
//! begins with. Its scripts are bash ([`bash`]). Whatever a student left, also half of it, is found and taken away by
//! [`sweep`]. [`grade`] runs the scripts of a whole class, each walled in. This room prints nothing: it hands text over.

mod bash;
pub mod grade;
pub mod lesson;
mod progress;
mod sandbox;
pub mod session;
mod sweep;
pub mod text;

pub use lesson::{Lesson, Lessons};
pub use progress::{Progress, Seen};
pub use session::{Checked, Lab};
