//! Objects and lists that go into columns of text, which get them as they are written.

/// JSON with nested values of some fields of its objects made strings; none if there are none. `is_text` is asked by name, without quotes.
/// What is no JSON stays as it is.
pub(super) fn quoted(json: &[u8], is_text: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
    let mut quoted = Vec::new();
    let (mut place, mut copied, mut depth) = (0, 0, 0_usize);
    // The last string of an object, and the field that a value belongs to.
    let (mut string, mut field) = (None, None);
    while let Some(byte) = json.get(place) {
        match byte {
            b'"' => {
                let end = string_end(json, place);
                string = json.get(place + 1..end.saturating_sub(1));
                place = end;
                continue;
            }
            b':' if depth == 1 => field = string,
            b',' if depth == 1 => field = None,
            b'{' | b'[' if depth == 1 && field.is_some_and(&is_text) => {
                let Some(end) = nested_end(json, place) else { break };
                quoted.extend_from_slice(&json[copied..place]);
                push_string(&mut quoted, &json[place..end]);
                (copied, place) = (end, end);
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => (depth, field) = (depth.saturating_sub(1), None),
            _ => {}
        }
        place += 1;
    }
    if copied == 0 {
        return None;
    }
    quoted.extend_from_slice(&json[copied..]);
    Some(quoted)
}

/// Where the string ends that begins at a place.
fn string_end(json: &[u8], start: usize) -> usize {
    let mut place = start + 1;
    while let Some(byte) = json.get(place) {
        match byte {
            b'"' => return place + 1,
            b'\\' => place += 2,
            _ => place += 1,
        }
    }
    json.len()
}

/// Where the object or list ends that begins at a place.
fn nested_end(json: &[u8], start: usize) -> Option<usize> {
    let (mut place, mut depth) = (start, 0_usize);
    loop {
        match json.get(place)? {
            b'"' => {
                place = string_end(json, place);
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth == 1 => return Some(place + 1),
            b'}' | b']' => depth -= 1,
            _ => {}
        }
        place += 1;
    }
}

fn push_string(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    for &byte in text {
        match byte {
            b'"' | b'\\' => out.extend([b'\\', byte]),
            0..0x20 => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_values_of_some_fields_become_strings() {
        let quoted = |json: &str| {
            let quoted = quoted(json.as_bytes(), |field| field == b"t" || field == b"u");
            quoted.map(|quoted| String::from_utf8(quoted).unwrap())
        };
        for unchanged in [
            r#"{"t":"x","n":{"t":{"a":1}},"l":[{"t":[1]}]}"#,
            r#"{"n":["t",{"t":{}}],"m":"t"}"#,
            r#"["t",{"t":{}}]"#,
            r#"{"t":{"a":1"#,
            r#"{"t"#,
            r#"{"t\""#,
            "",
        ] {
            assert_eq!(quoted(unchanged), None, "{unchanged}");
        }
        for (json, want) in [
            (r#"{"t":{}}"#, r#"{"t":"{}"}"#),
            (r#"{"a":{"t":{}},"t": {"b":[1,"]}\"",{}]} ,"u":[]}"#, r#"{"a":{"t":{}},"t": "{\"b\":[1,\"]}\\\"\",{}]}" ,"u":"[]"}"#),
            ("{\"t\":[\t1]}\n{\"t\":2,\"u\":[3]}\n", "{\"t\":\"[\\u00091]\"}\n{\"t\":2,\"u\":\"[3]\"}\n"),
            (r#"{"t":{"é":1}}{"t":{"x"#, r#"{"t":"{\"é\":1}"}{"t":{"x"#),
        ] {
            assert_eq!(quoted(json).as_deref(), Some(want), "{json}");
        }
    }
}
