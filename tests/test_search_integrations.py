"The page on other frameworks: its cells as they stand, against a real server."
import json
from conftest import ROOT
from coderank_qdrant.index import index_run
from coderank_qdrant.pipeline import embed_corpus
from coderank_qdrant.search import search

def test_the_cells_of_the_page(subset, qdrant, tmp_path, monkeypatch):
    monkeypatch.setenv('HAYSTACK_TELEMETRY_ENABLED', 'False')
    run = embed_corpus(subset, tmp_path/'out', profile='offline', limit=25)
    index_run(run, qdrant.url, collection='pages')
    cells = [''.join(c['source']) for c in json.loads((ROOT/'nbs/integrations.ipynb').read_text())['cells'] if c['cell_type'] == 'code']
    names = {}
    for c in cells:
        c = c.replace('http://localhost:6333', qdrant.url).replace("'qdrant_ecosystem'", "'pages'").replace("OUT = 'output'", f'OUT = {str(run.out)!r}')
        exec(compile(c, 'integrations.ipynb', 'exec'), names)
    hits = search('how to upload points', qdrant.url, 3, collection='pages')
    dense = search('how to upload points', qdrant.url, 3, collection='pages', mode='dense')
    assert [d.page_content for d in names['hybrid_from_langchain']] == [d.content for d in names['from_haystack']] == [h.text for h in hits]
    assert names['from_langchain'][0].page_content == names['from_llama_index'][0].text == dense[0].text
    assert names['from_llama_index'][0].metadata['source'] == dense[0].metadata['source']
    assert names['hybrid_from_langchain'][0].metadata['text_hash'] == hits[0].metadata['text_hash']
    assert len(names['from_haystack_copy']) == 3 and names['copy'].count_documents() == 25
