//! Puts the container's name before each line of several containers' output. Pure: bytes in, bytes out.
//!
//! What a container wrote goes through unchanged, control characters and all, as kubectl and podman print it: it may be
//! meant for a terminal, or for a program behind a pipe. Names cannot harm a terminal (DNS-1123 labels).

use anstyle::{AnsiColor, Style};

/// Whether names are coloured: for a terminal, unless the user asked otherwise (`anstream` knows).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    /// A colour of a fixed palette per container, in the order of the containers.
    Names,
    /// None.
    Off,
}

/// Readable on dark and light grounds; red is left to errors.
const PALETTE: [AnsiColor; 6] =
    [AnsiColor::Cyan, AnsiColor::Yellow, AnsiColor::Green, AnsiColor::Magenta, AnsiColor::Blue, AnsiColor::BrightCyan];

/// A piece of output of one stream of one container, for a [`Prefixer`].
#[derive(Debug, Clone, Copy)]
pub struct Piece<'a> {
    /// Index into the names given to [`Prefixer::new`].
    pub container: usize,
    /// Tells apart sources within a container, whose lines are not mixed: 0 for stdout, 1 for stderr.
    pub stream: u8,
    /// Written before a new line, after the name; empty for none.
    pub stamp: &'a str,
    /// The bytes, without the newline that ends the line.
    pub bytes: &'a [u8],
    /// Whether a newline follows.
    pub end: End,
}

/// What follows a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The line ends here.
    Newline,
    /// The line goes on with the same stream's next piece.
    GoesOn,
}

/// Prefixes lines with their container's name; remembers which line stands unfinished on the screen.
#[derive(Debug)]
pub struct Prefixer {
    prefixes: Vec<Vec<u8>>,
    unfinished: Option<(usize, u8)>,
}

impl Prefixer {
    /// For these containers; all prefixes are padded to the longest name, `name | `.
    pub fn new<S: AsRef<str>>(names: &[S], colour: Colour) -> Self {
        let width = names.iter().map(|name| name.as_ref().len()).max().unwrap_or(0);
        let prefix = |(index, name): (usize, &S)| {
            let style = match colour {
                Colour::Names => Style::new().fg_color(Some(PALETTE[index % PALETTE.len()].into())),
                Colour::Off => Style::new(),
            };
            let name = name.as_ref();
            format!("{style}{name:<width$} |{style:#} ").into_bytes()
        };
        Prefixer { prefixes: names.iter().enumerate().map(prefix).collect(), unfinished: None }
    }

    /// Appends `piece` to `out` as it is to appear.
    ///
    /// If another source's line stands unfinished, it is broken off with a newline, and its rest gets a prefix of its own.
    /// A container index out of range gets no prefix.
    pub fn push(&mut self, piece: Piece<'_>, out: &mut Vec<u8>) {
        let source = (piece.container, piece.stream);
        if self.unfinished != Some(source) {
            if piece.bytes.is_empty() && piece.end == End::GoesOn {
                return;
            }
            self.finish(out);
            out.extend_from_slice(self.prefixes.get(piece.container).map_or(&[], Vec::as_slice));
            if !piece.stamp.is_empty() {
                out.extend_from_slice(piece.stamp.as_bytes());
                out.push(b' ');
            }
        }
        out.extend_from_slice(piece.bytes);
        self.unfinished = match piece.end {
            End::Newline => {
                out.push(b'\n');
                None
            }
            End::GoesOn => Some(source),
        };
    }

    /// Ends the line that stands unfinished, if one does: at the end of the output, or before a message of podshim's own.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        if self.unfinished.take().is_some() {
            out.push(b'\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(container: usize, stream: u8, text: &str) -> Piece<'_> {
        let end = if text.ends_with('\n') { End::Newline } else { End::GoesOn };
        Piece { container, stream, stamp: "", bytes: text.trim_end_matches('\n').as_bytes(), end }
    }

    fn printed(names: &[&str], pieces: &[Piece<'_>]) -> String {
        let mut prefixer = Prefixer::new(names, Colour::Off);
        let mut out = Vec::new();
        pieces.iter().for_each(|piece| prefixer.push(*piece, &mut out));
        prefixer.finish(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_get_names() {
        let stamped = Piece { stamp: "T", ..piece(0, 0, "d\n") };
        let rows = [
            ("padded", vec![piece(0, 0, "a\n"), piece(1, 0, "b\n")], "app     | a\nsidecar | b\n"),
            ("a line in parts", vec![piece(0, 0, "a"), piece(0, 0, "b"), piece(0, 0, "\n")], "app     | ab\n"),
            (
                "another container comes between",
                vec![piece(0, 0, "a"), piece(1, 0, "x\n"), piece(0, 0, "b\n")],
                "app     | a\nsidecar | x\napp     | b\n",
            ),
            (
                "the other stream is another line",
                vec![piece(0, 0, "a"), piece(0, 1, "e\n")],
                "app     | a\napp     | e\n",
            ),
            ("an empty line", vec![piece(0, 0, "\n")], "app     | \n"),
            ("the end is finished", vec![piece(0, 0, "a")], "app     | a\n"),
            ("a stamp per line", vec![piece(0, 0, "c\n"), stamped], "app     | c\napp     | T d\n"),
        ];
        for (name, pieces, expected) in rows {
            assert_eq!(printed(&["app", "sidecar"], &pieces), expected, "{name}");
        }
    }

    #[test]
    fn only_names_are_coloured_and_bytes_stay_raw() {
        let mut prefixer = Prefixer::new(&["app"], Colour::Names);
        let mut out = Vec::new();
        prefixer
            .push(Piece { container: 0, stream: 0, stamp: "", bytes: b"\x1b[31m\xff\0", end: End::Newline }, &mut out);
        assert_eq!(out, b"\x1b[36mapp |\x1b[0m \x1b[31m\xff\0\n");
    }
}
