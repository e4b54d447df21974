"""Folders with instructions, listed with digests and read as resources (CONFORMANCE.md 2.3, SEP-2640)."""

from __future__ import annotations

import base64
import builtins
import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
from server.wire import HANDSHAKE, META, Wire, wire_to

from mcp_sync.server import Server

SKILLS = META + "skills"
HEAD = "---\nname: {name}\ndescription: Does things.\n---\n\n# Do it\n"
REVIEW = "---\nname: review-code\ndescription: Review.\nsince: 2024-05-01\ntags: [a, 1]\n---\n# Hi\n"


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    for path, content in files.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(
        tmp_path / "skills",
        {
            "review-code/SKILL.md": REVIEW,
            "review-code/docs/deep/style.md": "# Style é\n",
            "review-code/docs/list.txt": "one\r\ntwo\n",
            "review-code/docs/latin.txt": b"caf\xe9",
            "review-code/logo.png": b"\x89PNG\r\n\x1a\n",
            "review-code/no-kind": b"\x00\xff\xfe",
            "review-code/with space {x}.md": "# Odd\n",
            "review-code/.git/config": "secret",
            "review-code/.env": "secret",
            "pdf/SKILL.md": HEAD.format(name="pdf"),
            "no-skill/README.md": "# Nothing\n",
            "README.md": "# Skills\n",
        },
    )


def skilled(folder: Path, **options: Any) -> Server:
    server = Server("s", **options)
    server.add_skills(folder)
    return server


def error_of(wire: Wire, method: str, **params: Any) -> int:
    return int(wire.error(method, params)["code"])


def test_skills_are_declared_listed_and_found_by_their_uri(folder: Path) -> None:
    with wire_to(skilled(folder, cache_ttl_ms=7)) as wire:
        assert wire.result("server/discover")["capabilities"]["extensions"] == {SKILLS: {"directoryRead": True}}
        listed = wire.result("skills/list")
        assert (listed["ttlMs"], listed["cacheScope"], listed["resultType"]) == (7, "private", "complete")
        pdf, review = listed["skills"]
        assert [pdf["uri"], review["uri"]] == ["skill://pdf/SKILL.md", "skill://review-code/SKILL.md"]
        known = {"name": "review-code", "description": "Review.", "since": "2024-05-01", "tags": ["a", 1]}
        assert review["frontmatter"] == known
        got = wire.result("skills/get", {"uri": review["uri"]})
        assert (got["skill"], got["ttlMs"]) == (review, 7)
        for uri in ("skill://none/SKILL.md", "skill://pdf", "skill://pdf/", "", None, 5, ["skill://pdf/SKILL.md"]):
            assert error_of(wire, "skills/get", uri=uri) == -32602
        assert error_of(wire, "skills/list", cursor="x") == -32602


def test_what_is_listed_with_its_digest_is_what_is_read(folder: Path) -> None:
    with wire_to(skilled(folder)) as wire:
        resources = {one["uri"]: one for one in wire.result("resources/list")["resources"]}
        listed = [one for skill in wire.result("skills/list")["skills"] for one in skill["resources"]]
        assert set(resources) == {one["uri"] for one in listed}
        assert not [uri for uri in resources if "/." in uri]
        assert listed[1]["uri"] == "skill://review-code/SKILL.md"  # the manifest comes first
        for one in listed:
            (contents,) = wire.result("resources/read", {"uri": one["uri"]})["contents"]
            data = contents["text"].encode() if "text" in contents else base64.b64decode(contents["blob"])
            assert one["digest"] == f"sha256:{hashlib.sha256(data).hexdigest()}", one["uri"]
            assert one["size"] == len(data) == resources[one["uri"]]["size"]
        kinds = {uri.rpartition("/")[2]: one.get("mimeType") for uri, one in resources.items()}
        assert (kinds["SKILL.md"], kinds["list.txt"], kinds["logo.png"]) == ("text/markdown", "text/plain", "image/png")
        manifest = resources["skill://review-code/SKILL.md"]
        assert (manifest["name"], manifest["description"]) == ("review-code", "Review.")


def test_folders_are_read_with_their_children(folder: Path) -> None:
    with wire_to(skilled(folder)) as wire:

        def children(uri: str) -> dict[str, tuple[str, str | None]]:
            found = wire.result("resources/directory/read", {"uri": uri})["resources"]
            return {one["name"]: (one["uri"], one.get("mimeType")) for one in found}

        base = "skill://review-code"
        assert children(base) == children(f"{base}/") == {
            "SKILL.md": (f"{base}/SKILL.md", "text/markdown"),
            "docs": (f"{base}/docs", "inode/directory"),
            "logo.png": (f"{base}/logo.png", "image/png"),
            "no-kind": (f"{base}/no-kind", None),
            "with space {x}.md": (f"{base}/with%20space%20%7Bx%7D.md", "text/markdown"),
        }
        assert set(children(f"{base}/docs")) == {"deep", "list.txt", "latin.txt"}
        assert set(children(f"{base}/docs/deep")) == {"style.md"}
        for uri in (f"{base}/SKILL.md", f"{base}/none", f"{base}/../pdf", "skill://rev", "skill://", "", None, 5):
            assert error_of(wire, "resources/directory/read", uri=uri) == -32602, uri
        assert error_of(wire, "resources/directory/read", uri=base, cursor="x") == -32602


def test_in_the_handshake_era_skills_are_resources_like_others(folder: Path) -> None:
    with wire_to(skilled(folder), HANDSHAKE) as wire:
        assert len(wire.result("resources/list")["resources"]) == 8
        assert wire.result("resources/read", {"uri": "skill://pdf/SKILL.md"})["contents"][0]["text"].startswith("---")
        assert error_of(wire, "skills/list") == -32601


def test_one_skill_may_be_added_by_itself_and_more_later_but_none_twice(folder: Path) -> None:
    server = skilled(folder / "pdf")
    server.add_skills(folder / "review-code")
    with pytest.raises(ValueError, match="'pdf' already"):
        server.add_skills(folder)
    assert len(server.extensions) == 1
    with wire_to(server) as wire:
        assert [one["frontmatter"]["name"] for one in wire.result("skills/list")["skills"]] == ["pdf", "review-code"]


def test_what_changes_later_is_not_served(folder: Path) -> None:
    server = skilled(folder)
    write(folder, {"pdf/SKILL.md": "other", "pdf/new.md": "new"})
    with wire_to(server) as wire:
        (contents,) = wire.result("resources/read", {"uri": "skill://pdf/SKILL.md"})["contents"]
        assert contents["text"] == HEAD.format(name="pdf")
        assert error_of(wire, "resources/read", uri="skill://pdf/new.md") == -32602


def test_nothing_outside_of_the_folder_is_served(folder: Path, tmp_path: Path) -> None:
    write(tmp_path, {"outside.md": "secret", "others/a.md": "secret"})
    os.symlink(tmp_path / "outside.md", folder / "pdf" / "link.md")
    os.symlink(tmp_path / "others", folder / "pdf" / "others")
    os.symlink(folder / "pdf" / "SKILL.md", folder / "pdf" / "inner.md")
    with wire_to(skilled(folder)) as wire:
        uris = [one["uri"] for one in wire.result("resources/list")["resources"] if "pdf" in one["uri"]]
    assert uris == ["skill://pdf/SKILL.md", "skill://pdf/inner.md"]
    (folder / "pdf" / "SKILL.md").unlink()
    os.symlink(tmp_path / "outside.md", folder / "pdf" / "SKILL.md")
    with pytest.raises(ValueError, match=r"pdf.SKILL\.md leads out"):
        skilled(folder)


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        ("# No head\n", "YAML between"),
        ("", "YAML between"),
        ("\n---\nname: pdf\n---\n", "YAML between"),
        ("---\nname: pdf\ndescription: x\n", "YAML between"),
        (b"---\nname: pdf\ndescription: caf\xe9\n---\n", "YAML between"),
        ("---\n- a\n- b\n---\n", "no mapping"),
        ("---\ntext\n---\n", "no mapping"),
        ("---\n---\n", "no mapping"),
        ("---\n1: x\nname: pdf\ndescription: x\n---\n", "no mapping"),
        ("---\nname: [\n---\n", "SKILL.md: while parsing"),
        ("---\nname: !!python/object/apply:os.getcwd []\n---\n", "could not determine a constructor"),
        ("---\nname: pdf\ndescription: x\nmore: .nan\n---\n", "JSON"),
        ("---\nname: pdf\ndescription: x\nmore: !!binary AAAA\n---\n", "JSON"),
        ("---\ndescription: x\n---\n", "name must be"),
        ("---\nname: 5\ndescription: x\n---\n", "name must be"),
        ("---\nname: PDF\ndescription: x\n---\n", "name must be"),
        ("---\nname: a--b\ndescription: x\n---\n", "name must be"),
        (f"---\nname: {'a' * 65}\ndescription: x\n---\n", "name must be"),
        ("---\nname: other\ndescription: x\n---\n", "'other', and that of its folder 'pdf'"),
        ("---\nname: pdf\n---\n", "no description"),
        ("---\nname: pdf\ndescription: '  '\n---\n", "no description"),
        ("---\nname: pdf\ndescription: 5\n---\n", "no description"),
    ],
)
def test_a_skill_that_is_not_valid_is_refused_with_the_file(tmp_path: Path, manifest: str | bytes, said: str) -> None:
    server = Server("s")
    write(tmp_path, {"pdf/SKILL.md": manifest, "aaa/SKILL.md": HEAD.format(name="aaa")})
    with pytest.raises(ValueError, match=r"pdf.SKILL\.md") as refusal:
        server.add_skills(tmp_path)
    assert said in str(refusal.value)
    assert len(server.resources) == 0  # none of the others either


def test_windows_line_ends_and_colons_are_fine(tmp_path: Path) -> None:
    write(tmp_path, {"pdf/SKILL.md": "---\r\nname: pdf\r\ndescription: 'a: b'\r\n---\r\n# Hi ---\r\n"})
    with wire_to(skilled(tmp_path)) as wire:
        assert wire.result("skills/list")["skills"][0]["frontmatter"] == {"name": "pdf", "description": "a: b"}


def test_a_folder_without_skills_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none", write(tmp_path, {"file": "x"}) / "file"):
        with pytest.raises(ValueError, match=r"no folder with a SKILL\.md"):
            skilled(folder)


def test_a_skill_that_is_no_instruction_any_more_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {"pdf/SKILL.md": HEAD.format(name="pdf"), "pdf/data.bin": b"\0" * (16 << 20)})
    with pytest.raises(ValueError, match="bytes in all"):
        skilled(tmp_path)


def test_without_pyyaml_the_error_names_the_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without_yaml(name: str, *rest: Any, **more: Any) -> Any:
        if name == "yaml":
            raise ImportError("No module named 'yaml'", name="yaml")
        return original(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without_yaml)
    with pytest.raises(ImportError, match=r"PyYAML.*\[server\]"):
        skilled(folder)
