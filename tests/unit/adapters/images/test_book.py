from pathlib import Path

from adapters.images.book import Book

A, B = "sha256:" + "a" * 64, "sha256:" + "b" * 64


def test_notes_and_forgets(tmp_path: Path) -> None:
    book = Book(tmp_path / "names")
    assert book.entries() == {}
    book.note("q.io/x:1", A, B)
    book.note("q.io/x:2", A, B)
    book.note("q.io/y:1", B, A)
    assert book.entries() == {"q.io/x:1": (A, B), "q.io/x:2": (A, B), "q.io/y:1": (B, A)}
    book.forget("q.io/x:2")
    book.forget("q.io/x:2")
    book.forget_image(A)
    assert Book(tmp_path / "names").entries() == {"q.io/y:1": (B, A)}


def test_what_is_torn_or_foreign_is_left_out(tmp_path: Path) -> None:
    book = Book(tmp_path)
    book.note("q.io/x:1", A, B)
    good = next(tmp_path.glob("*.json"))
    for name, text in {
        "0.json": "",
        "1.json": "{",
        "2.json": "[]",
        "3.json": '{"reference": 1}',
        "4.json": good.read_text(),
        "5.json": "[" * 9999,
    }.items():
        (tmp_path / name).write_text(text)
    assert list(book.entries()) == ["q.io/x:1"]
    book.note("q.io/x:1", "../../x", B)
    assert book.entries() == {}


def test_keeps_only_whole_notes_about_images_that_are_there(tmp_path: Path) -> None:
    book = Book(tmp_path / "names")
    book.keep_only(())
    book.note("q.io/x:1", A, B)
    book.note("q.io/y:1", B, A)
    (tmp_path / "names" / "half.new").write_text("{")
    book.keep_only({A})
    assert [*book.entries()] == ["q.io/x:1"] and len([*(tmp_path / "names").iterdir()]) == 1
