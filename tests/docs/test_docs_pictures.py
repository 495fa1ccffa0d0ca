"""The pictures of a page are what its script draws, and the page says what they show."""

import importlib.util
import xml.etree.ElementTree as ET

import pytest
from docs_kit import DOCS

FOLDER = DOCS / "explanation" / "pictures"


@pytest.fixture(scope="module")
def drawn():
    spec = importlib.util.spec_from_file_location("draw_sequential", DOCS / "draw_sequential.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.pictures()


def test_the_committed_pictures_are_what_the_script_draws(drawn):
    kept = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.svg")}
    assert sorted(kept) == sorted(drawn)
    assert [name for name in drawn if kept[name] != drawn[name]] == [], "run: python docs/draw_sequential.py"


def test_each_picture_is_whole_and_stands_on_the_page(drawn):
    page = (DOCS / "explanation" / "why-sequential.md").read_text(encoding="utf-8")
    for name, svg in drawn.items():
        assert ET.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
        assert f"](pictures/{name})" in page


def test_the_threshold_ends_every_healthy_release_and_the_bet_almost_none(drawn):
    svg = ET.fromstring(drawn["healthy-releases.svg"])
    values = [float(e.text) for e in svg.iter("{http://www.w3.org/2000/svg}title")]
    threshold, z, bet = values[:10], values[10:20], values[20:]
    assert threshold[-1] == 100
    assert z[-1] > 25
    assert bet[-1] <= 5  # 1 % of 100 releases; 6 would come once in 2,000 times
