//! What a registry says in WWW-Authenticate (RFC 9110, 11.6.1; the distribution specification's token authentication). Pure.

/// How a registry wants to be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// With name and password.
    Basic,
    /// With a token that `realm`, a URL, gives to those who ask with these words.
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

/// Reads one header; the token is preferred where both are offered. `None` where it offers neither.
pub(super) fn parse(header: &str) -> Option<Challenge> {
    let mut basic = None;
    let mut rest = header;
    while let Some((scheme, parameters, after)) = next(rest) {
        let get = |name: &str| parameters.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone());
        if scheme.eq_ignore_ascii_case("bearer") {
            return Some(Challenge::Bearer { realm: get("realm")?, service: get("service"), scope: get("scope") });
        }
        if scheme.eq_ignore_ascii_case("basic") {
            basic = Some(Challenge::Basic);
        }
        rest = after;
    }
    basic
}

type Parameters = Vec<(String, String)>;

/// A scheme with its parameters, and what follows.
fn next(text: &str) -> Option<(&str, Parameters, &str)> {
    let text = text.trim_start_matches([' ', ',', '\t']);
    let end = text.find([' ', ',', '\t']).unwrap_or(text.len());
    let (scheme, mut rest) = text.split_at(end);
    if scheme.is_empty() {
        return None;
    }
    let mut parameters = Parameters::new();
    loop {
        let start = rest.trim_start_matches([' ', ',', '\t']);
        // A word without an equals sign is the next scheme.
        let Some((name, after)) = start.split_once('=').filter(|(name, _)| is_token(name)) else {
            return Some((scheme, parameters, start));
        };
        let (value, after) = value(after)?;
        parameters.push((name.to_owned(), value));
        rest = after;
    }
}

fn is_token(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// A value, in quotes or not, and what follows. `None` where the quotes do not end.
fn value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let (mut value, mut characters) = (String::new(), quoted.char_indices());
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Option<Challenge> {
        Some(Challenge::Bearer { realm: realm.into(), service: service.map(Into::into), scope: scope.map(Into::into) })
    }

    #[test]
    fn challenges_of_registries() {
        let scope = "repository:acme/os:pull,push";
        let quay = r#"Bearer realm="https://quay.io/v2/auth",service="quay.io",scope="repository:acme/os:pull,push""#;
        let table = [
            (quay, bearer("https://quay.io/v2/auth", Some("quay.io"), Some(scope))),
            (r#"bearer realm=https://r.io/t"#, bearer("https://r.io/t", None, None)),
            (r#"Bearer  realm="a\"b" , service=s"#, bearer("a\"b", Some("s"), None)),
            (r#"Basic realm="test""#, Some(Challenge::Basic)),
            ("Basic", Some(Challenge::Basic)),
            (r#"Basic realm="x", Bearer realm="https://r.io/t""#, bearer("https://r.io/t", None, None)),
            (r#"Negotiate, Basic realm="x""#, Some(Challenge::Basic)),
            ("Negotiate", None),
            (r#"Bearer service="no realm""#, None),
            (r#"Bearer realm="without end"#, None),
            ("", None),
            (" , ,", None),
        ];
        for (header, expected) in table {
            assert_eq!(parse(header), expected, "{header}");
        }
    }
}
