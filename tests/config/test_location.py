from basicsr.config.location import MAX_MESSAGE_CHARS, MAX_VALUE_CHARS, NO_LOCATION, Location, format_key, format_value


def test_a_location_has_the_line_of_its_key_or_of_the_section_around_it():
    where = Location({(): "x.yml", ("a",): "x.yml:4", ("a", "b"): "x.yml:5"})
    assert str(where.at("a.b")) == "x.yml:5: a.b"
    assert str(where / "a" / "other") == "x.yml:4: a.other"


def test_a_location_without_a_line_has_its_file_or_only_its_key():
    assert str(Location({(): "x.yml"}, ("b", 0, "c"))) == "x.yml: b[0].c"
    assert str(NO_LOCATION / "b") == "b"


def test_messages_stay_on_one_line_and_short():
    message = str((NO_LOCATION / "a\nb").error("first\nsecond" + "x" * 9999))
    assert message.isprintable()
    assert len(message) < MAX_MESSAGE_CHARS + 20
    assert len(format_key("k" * 9999)) == len(format_value("v" * 9999)) == MAX_VALUE_CHARS + len("...")
