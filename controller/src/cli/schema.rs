//! `trueup schema [KIND]`: the JSON Schemas of the kinds, for editors, and the OpenAPI of the socket, for programs.

use trueup_schema::json_schema;
use trueup_schema::kind::Kind;

use super::{CliError, Ctx, Exit};

/// Print the JSON Schema of a kind or the API's description, or list the kinds
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Fleet, Host, Check, Alert or Cache; `api` for the OpenAPI of the controller's socket
    kind: Option<String>,
}

pub(super) fn run(args: Args, ctx: &mut Ctx<'_>) -> Result<Exit, CliError> {
    let Some(asked) = args.kind else {
        for kind in json_schema::KINDS {
            ctx.say(kind.word());
        }
        return Ok(Exit::Done);
    };
    if asked == "api" {
        ctx.say(format_args!("{:#}", crate::api::openapi()));
        return Ok(Exit::Done);
    }
    let Some((_, kind)) = Kind::WORDS
        .iter()
        .find(|(word, _)| word.eq_ignore_ascii_case(&asked))
    else {
        let words: Vec<&str> = json_schema::KINDS.iter().map(|k| k.word()).collect();
        let error = CliError::usage(format!("there is no kind `{asked}`"));
        return Err(match crate::settings::nearest(&asked, &words) {
            Some(near) => error.next(format!("did you mean `{near}`?")),
            None => error.next(format!("kinds: {}", words.join(", "))),
        });
    };
    let text = json_schema::text(*kind)
        .ok_or_else(|| CliError::not_yet(&format!("the kind {}", kind.word())))?;
    ctx.say(text.trim_end());
    Ok(Exit::Done)
}
