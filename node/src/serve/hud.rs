//! `/hud/settings`: what the public sees of an agent, which is a table of its manifest.

use std::sync::Arc;

use super::creator::Creator;
use super::ctl::{change_manifest, text};
use super::{OneFile, at};
use crate::agent::manifest::{Hud, Manifest};
use crate::namespace::error::Error;
use crate::namespace::mount::Mounts;
use crate::namespace::service::{Context, FileType};

pub(super) fn mount(mounts: &mut Mounts, creator: &Arc<Creator>) {
    let read = |cx: &Context<'_>| {
        let settings = toml::to_string(&cx.subject()?.manifest.hud).unwrap_or_default();
        Ok(settings.into_bytes())
    };
    let by = creator.clone();
    let settings = OneFile::value(read).taking(move |cx, change| {
        let by = by.clone();
        Box::pin(async move {
            let invalid = |reason: String| Error::invalid("/hud/settings", reason);
            let hud: Hud = toml::from_str(text(change)?).map_err(|error| invalid(error.to_string()))?;
            let manifest = Manifest { hud, ..cx.subject()?.manifest.clone() };
            by.check(&manifest).map_err(invalid)?;
            change_manifest(cx, manifest)
        })
    });
    mounts.mount_file(at("/hud/settings"), FileType::Value, Arc::new(settings), "what is shown");
}

#[cfg(test)]
mod tests {
    use oa_nips::files::Code;

    use super::super::fixture::Fixture;
    use crate::namespace::service::Change;
    use crate::store::write::{AgentChange, Write};

    #[tokio::test]
    async fn nothing_is_public_before_somebody_says_so_and_no_words_ever_are() {
        let fixture = Fixture::stored().await;
        assert!(fixture.read("/hud/settings").await.unwrap().starts_with("public = false\n"));
        let set = |text: &str| Change::Write(text.as_bytes().to_vec());
        let effect =
            fixture.change("/hud/settings", set("public = true\nfields = [\"path\"]")).await.unwrap();
        let manifest = effect.writes.iter().find_map(|write| match write {
            Write::ChangeAgent(_, AgentChange::Manifest(manifest)) => Some(manifest),
            _ => None,
        });
        let hud = &manifest.unwrap().hud;
        assert!(hud.public && hud.shows("path") && hud.shows("tick_id") && !hud.shows("outcome"));
        for bad in ["fields = [\"message\"]", "fields = [\"reason\"]", "colour = 1", "public = 1"] {
            let refused = fixture.change("/hud/settings", set(bad)).await.map(drop);
            assert_eq!(refused, Err(Code::InvalidInput), "{bad}");
        }
    }
}
