//! The `podshim` command: everything is in the library; this file only hands over.

fn main() -> std::process::ExitCode {
    podshim::cli::main()
}
