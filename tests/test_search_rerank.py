"Reranking with small models of the right kinds: whatever they say, no hit is lost."
import pytest
from conftest import make_bert, make_qwen2, write_file
from coderank_qdrant.command import InputError
from coderank_qdrant.index import index_run
from coderank_qdrant.pipeline import embed_corpus
from coderank_qdrant.rerank import rank_listwise, read_ranking
from coderank_qdrant.search import search

def make_cross_encoder(folder):
    import torch
    from transformers import BertConfig, BertForSequenceClassification
    make_bert(folder)
    torch.manual_seed(1)
    cfg = BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, max_position_embeddings=512, num_labels=1)
    BertForSequenceClassification(cfg).save_pretrained(folder)
    return folder

@pytest.fixture(scope='module')
def place(tmp_path_factory, tiny):
    root = tmp_path_factory.mktemp('rerank')
    write_file(root/'c', 'docs/a_chunks.json', [f'point {i} is uploaded [{i}] with client number {i * 7 % 23}' for i in range(23)])
    index_run(embed_corpus(root/'c', root/'out', profile=str(tiny)), root/'index')
    return root/'index'

def find(place, tiny, **kw): return search('upload a point', place, models_dir=tiny.parent, **kw)

def test_a_cross_encoder_puts_hits_in_its_order(place, tiny, tmp_path):
    from sentence_transformers import CrossEncoder
    folder = make_cross_encoder(tmp_path/'cross')
    hits = find(place, tiny, limit=23, rerank=str(folder))
    model = CrossEncoder(str(folder), device='cpu')
    scores = model.predict([('upload a point', h.text) for h in hits], show_progress_bar=False)
    assert list(scores) == sorted(scores, reverse=True) and sorted(h.rank_before for h in hits) == list(range(1, 24))
    assert {h.id for h in hits} == {h.id for h in find(place, tiny, limit=23)}
    assert len(find(place, tiny, limit=3, rerank=str(folder))) == 3

def test_a_language_model_that_babbles_loses_nothing(place, tiny, tmp_path):
    folder = make_qwen2(tmp_path/'llm', hidden=56, causal=True, sentence=False)
    hits = find(place, tiny, limit=23, rerank=str(folder))
    assert {h.id for h in hits} == {h.id for h in find(place, tiny, limit=23)} and len(hits) == 23

@pytest.mark.parametrize('answer,first', [('[3] > [1]', [2, 0, 1]), ('', [0, 1, 2]), ('[99] [0] [-1] [3]', [2, 0, 1]), ('[2][2][2]', [1, 0, 2]), ('the best is [ 2 ]!', [1, 0, 2]), ('[1' * 999, [0, 1, 2]), ('[' + '9' * 40 + ']', [0, 1, 2])])
def test_any_answer_is_an_order(answer, first):
    order = read_ranking(answer, 10)
    assert order[:3] == first and sorted(order) == list(range(10))
    for n in 1, 2, 9, 10, 11, 14, 15, 16, 50: assert sorted(rank_listwise([str(i) for i in range(n)], lambda ts: read_ranking(answer, len(ts)))) == list(range(n))

def test_the_best_of_fifty_rises_to_the_top():
    "A perfect judge that sees ten at a time brings the best ten or so to the beginning, wherever they were."
    texts = [f'{i:02d}' for i in range(50)]
    for best in range(50):
        first = f'{best:02d}'
        judge = lambda ts, first=first: sorted(range(len(ts)), key=lambda i: (ts[i] == first, ts[i]), reverse=True)
        assert rank_listwise(texts, judge)[0] == best

def test_what_is_no_reranker_is_refused(place, tiny, tmp_path):
    with pytest.raises(InputError, match='is no reranker'): find(place, tiny, rerank=str(tiny))
    folder = make_cross_encoder(tmp_path/'pickled')
    (folder/'model.safetensors').rename(folder/'pytorch_model.bin')
    with pytest.raises(InputError, match='pickled weights only'): find(place, tiny, rerank=str(folder))
    with pytest.raises(InputError, match='Looked in'): find(place, tiny, rerank='no-such-reranker')
