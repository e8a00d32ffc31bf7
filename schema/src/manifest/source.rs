//! A file as lines, and places in it. Knows nothing of YAML but where one document ends and the next begins.

/// A place: line and column from 1, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Span {
    pub line: usize,
    pub column: usize,
    pub length: usize,
}

/// One file, decoded.
#[derive(Debug)]
pub(super) struct Source {
    pub path: String,
    lines: Vec<String>,
}

/// The text of one document and the number of file lines before it.
#[derive(Debug)]
pub(super) struct Chunk {
    pub text: String,
    pub lines_before: usize,
}

impl Source {
    /// A byte-order mark is dropped and line ends are made `\n`, so that columns are what an editor shows.
    pub fn new(path: &str, text: &str) -> Self {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        Self {
            path: path.to_owned(),
            lines: text.split('\n').map(str::to_owned).collect(),
        }
    }

    pub fn line(&self, number: usize) -> Option<&str> {
        self.lines.get(number.checked_sub(1)?).map(String::as_str)
    }

    /// The documents, each parsed for itself: so a broken one hides no other. `---` at the start of a line ends a
    /// document wherever it stands, also within a block of text (YAML 1.2, 9.1.2).
    pub fn chunks(&self) -> Vec<Chunk> {
        let mut chunks = vec![Chunk {
            text: String::new(),
            lines_before: 0,
        }];
        for (n, line) in self.lines.iter().enumerate() {
            let marks = line
                .strip_prefix("---")
                .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t']));
            if marks && n > 0 {
                chunks.push(Chunk {
                    text: String::new(),
                    lines_before: n,
                });
            }
            if let Some(chunk) = chunks.last_mut() {
                chunk.text.push_str(line);
                chunk.text.push('\n');
            }
        }
        chunks
    }
}
