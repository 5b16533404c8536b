//! Names of the `xdstp:` scheme: one spelling for each, and the collections they belong to.
//!
//! It knows syntax only. Other names are opaque: they have one spelling and belong to no collection. Rules: cncf/xds, TP1
//! ("xdstp://{authority}/{type}/{id}?{context parameters}", "Glob").

use std::borrow::Cow;

/// What names of the scheme begin with.
const SCHEME: &str = "xdstp:";

/// The one spelling of a name: context parameters sorted by key, and no empty list of them. Clients may send them in any order
/// and mean the same resource.
pub(crate) fn normal(name: &str) -> Cow<'_, str> {
    let Parts { path, context, directives } = match parts(name) {
        Some(parts) if parts.context.is_some() => parts,
        _ => return Cow::Borrowed(name),
    };
    let mut pairs: Vec<&str> =
        context.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()).collect();
    pairs.sort_by_key(|pair| pair.split_once('=').map_or(*pair, |(key, _)| key));
    let mut normal = path.to_owned();
    if !pairs.is_empty() {
        normal.push('?');
        normal.push_str(&pairs.join("&"));
    }
    if let Some(directives) = directives {
        normal.push('#');
        normal.push_str(directives);
    }
    if normal == name { Cow::Borrowed(name) } else { Cow::Owned(normal) }
}

/// Whether a name asks for a collection: its path ends with `/*`.
pub(crate) fn is_glob(name: &str) -> bool {
    parts(name).is_some_and(|parts| parts.path.ends_with("/*"))
}

/// The collection a resource of this name belongs to: the last piece of its path becomes `*`, the context parameters stay.
pub(crate) fn glob_of(name: &str) -> Option<String> {
    let Parts { path, context, .. } = parts(name)?;
    let (collection, _) = path.rsplit_once('/')?;
    let context = context.filter(|context| !context.is_empty());
    Some(match context {
        Some(context) => format!("{collection}/*?{context}"),
        None => format!("{collection}/*"),
    })
}

struct Parts<'a> {
    path: &'a str,
    context: Option<&'a str>,
    directives: Option<&'a str>,
}

/// `None` for a name of another scheme.
fn parts(name: &str) -> Option<Parts<'_>> {
    if !name.starts_with(SCHEME) {
        return None;
    }
    let (rest, directives) = match name.split_once('#') {
        Some((rest, directives)) => (rest, Some(directives)),
        None => (name, None),
    };
    let (path, context) = match rest.split_once('?') {
        Some((path, context)) => (path, Some(context)),
        None => (rest, None),
    };
    Some(Parts { path, context, directives })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn context_parameters_have_one_order() {
        assert_eq!(normal("xdstp://a/t/x?b=2&a=1"), "xdstp://a/t/x?a=1&b=2");
        assert_eq!(normal("xdstp://a/t/x?#d"), "xdstp://a/t/x#d");
        assert_eq!(normal("xdstp:///t/x"), "xdstp:///t/x");
        assert_eq!(normal("plain?b&a"), "plain?b&a", "a name of no scheme is what it is");
    }

    #[test]
    fn a_resource_belongs_to_the_collection_of_its_path_and_context() {
        assert_eq!(glob_of("xdstp://a/t/x/y?k=1").as_deref(), Some("xdstp://a/t/x/*?k=1"));
        assert_eq!(glob_of("xdstp://a/t/x/y").as_deref(), Some("xdstp://a/t/x/*"));
        assert_eq!(glob_of("x/y"), None);
        assert!(
            is_glob("xdstp://a/t/x/*?k=1") && !is_glob("xdstp://a/t/x") && !is_glob("x/*") && !is_glob("*")
        );
    }

    proptest! {
        #[test]
        fn normal_is_stable_and_never_panics(name in "(xdstp:)?[a/*?&=#b]{0,24}") {
            let once = normal(&name).into_owned();
            prop_assert_eq!(normal(&once), once.as_str());
            prop_assert_eq!(is_glob(&once), is_glob(&name));
            let _ = glob_of(&name);
        }
    }
}
