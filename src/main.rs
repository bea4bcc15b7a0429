//! The `podshim` command: everything is in the library; this file only hands over.

#[global_allocator]
static HEAP: podshim::sys::heap::Heap = podshim::sys::heap::Heap;

fn main() -> std::process::ExitCode {
    podshim::cli::main()
}
