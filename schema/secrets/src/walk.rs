//! One walk over a document for all purposes: it keeps the path, the active comments and the depth, and shows each leaf.

use crate::error::Error;
use crate::scope::Scope;
use crate::value::{Item, Key, Value};

/// Where a leaf is and whether it is to be encrypted.
pub(crate) struct Leaf<'a> {
    path: &'a [String],
    pub encrypted: bool,
    pub in_list: bool,
}

impl Leaf<'_> {
    /// The additional data of the cipher: every key followed by a colon; list indices add nothing.
    pub(crate) fn aad(&self) -> String {
        self.path.join(":") + ":"
    }

    /// For people.
    pub(crate) fn shown(&self) -> String {
        self.path.join("/")
    }
}

/// Calls `visit` for every leaf but null, in file order.
pub(crate) fn walk<F>(scope: &Scope, docs: &mut [Vec<Item>], visit: F) -> Result<(), Error>
where
    F: FnMut(&Leaf<'_>, &mut Value) -> Result<(), Error>,
{
    let mut walker = Walker {
        scope,
        path: Vec::new(),
        comments: Vec::new(),
        visit,
    };
    docs.iter_mut().try_for_each(|doc| walker.map(doc))
}

struct Walker<'a, F> {
    scope: &'a Scope,
    path: Vec<String>,
    /// For each open level: whether an active comment there matches the rule. The texts are not needed again.
    comments: Vec<bool>,
    visit: F,
}

impl<F> Walker<'_, F>
where
    F: FnMut(&Leaf<'_>, &mut Value) -> Result<(), Error>,
{
    fn map(&mut self, items: &mut [Item]) -> Result<(), Error> {
        self.comments.push(false);
        for item in items {
            match &item.key {
                Key::Comment => self.leaf(&mut item.value, false)?,
                Key::Name(name) => {
                    self.path.push(name.clone());
                    self.value(&mut item.value, false)?;
                    self.path.pop();
                }
                Key::NotText(text) => {
                    self.path.push(text.clone());
                    return Err(Error::KeyNotText {
                        path: self.path.join("/"),
                    });
                }
            }
        }
        self.comments.pop();
        Ok(())
    }

    fn list(&mut self, values: &mut [Value]) -> Result<(), Error> {
        self.comments.push(false);
        values
            .iter_mut()
            .try_for_each(|value| self.value(value, true))?;
        self.comments.pop();
        Ok(())
    }

    fn value(&mut self, value: &mut Value, in_list: bool) -> Result<(), Error> {
        match value {
            Value::Null => {}
            Value::Map(items) => self.map(items)?,
            Value::List(values) => self.list(values)?,
            Value::Comment(_) => return self.leaf(value, in_list),
            _ => self.leaf(value, in_list)?,
        }
        // A comment governs the one item after it.
        if let Some(level) = self.comments.last_mut() {
            *level = false;
        }
        Ok(())
    }

    fn leaf(&mut self, value: &mut Value, in_list: bool) -> Result<(), Error> {
        let before = self.comments.contains(&true);
        let own = match &*value {
            Value::Comment(comment) => self.scope.comment_matches(&comment.text),
            _ => false,
        };
        if let Some(level) = self.comments.last_mut() {
            *level |= own;
        }
        let encrypted = self.scope.covers(&self.path, before, own);
        (self.visit)(
            &Leaf {
                path: &self.path,
                encrypted,
                in_list,
            },
            value,
        )
    }
}
