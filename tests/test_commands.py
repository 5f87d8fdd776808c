"Commands: what they say, and how they end."
import json, subprocess, sys
import pytest
from conftest import make_bert, run_cli, write_file
from coderank_qdrant.corpus import read_corpus
from coderank_qdrant.pipeline import embed_corpus
from coderank_qdrant.routing import PROFILES

@pytest.fixture
def corpus(tmp_path):
    write_file(tmp_path/'c', 'docs/a_chunks.json', ['one', 'two'])
    return tmp_path/'c'

@pytest.mark.parametrize('args,says', [([], 'Say where to write'), (['--out', 'OUT', '--profile', 'no-such-model'], 'Looked in'), (['--out', 'OUT', '--devices', 'cuda:7'], 'no device cuda:7'),
    (['--out', 'OUT', '--profile', 'offline', '--precision', 'fp64'], '--precision fp64: one of'), (['--out', 'OUT', '--profile', 'offline', '--strategy', 'luck'], '--strategy luck: one of'),
    (['--out', 'OUT', '--profile', 'offline', '--long', 'never'], '--long never: one of'), (['--out', 'OUT', '--profile', 'offline', '--max_length', '9999'], '16 to 512'),
    (['--out', 'OUT', '--profile', 'offline', '--limit', '0'], 'at least one'), (['--out', 'OUT', '--profile', 'offline', '--collection', 'a/b'], 'slashes'),
    (['--out', 'OUT', '--nonsense'], 'unrecognized')], ids=lambda a: ' '.join(a[2:]) if isinstance(a, list) else '')
def test_bad_arguments_are_exit_2(corpus, tmp_path, args, says):
    p = run_cli(corpus, *[str(tmp_path/'out') if a == 'OUT' else a for a in args])
    assert p.returncode == 2 and says in p.stderr and 'Traceback' not in p.stderr

def test_help_names_every_option():
    import inspect
    p = run_cli('--help')
    assert p.returncode == 0
    assert all(f'--{o}' in p.stdout for o in inspect.signature(embed_corpus).parameters if o not in ('root', 'keep'))
    assert '--max_bad' in p.stdout

def test_what_draws_nothing_does_not_wait_for_matplotlib():
    code = "import sys, coderank_qdrant.pipeline, coderank_qdrant.search, coderank_qdrant.workers; print('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).stdout == 'False\n'

def test_a_dry_run_writes_nothing(corpus, tmp_path):
    p = run_cli(corpus, '--out', tmp_path/'out', '--profile', 'offline', '--dry_run')
    assert p.returncode == 0 and 'rows to compute: 2' in p.stdout and not (tmp_path/'out').exists()

def test_no_weights_says_where_it_looked(corpus, tmp_path):
    p = run_cli(corpus, '--out', tmp_path/'out', '--profile', 'light', '--models_dir', tmp_path)
    assert p.returncode == 2 and all(f'{w}:' in p.stderr for w in ('models_dir', 'kaggle', 'hub cache', 'package', 'hub'))

def test_weights_of_another_model_are_refused(corpus, tmp_path):
    make_bert(tmp_path/'models/CodeRankEmbed')
    p = run_cli(corpus, '--out', tmp_path/'out', '--profile', 'light', '--models_dir', tmp_path/'models')
    assert p.returncode == 2 and 'its card says 768' in p.stderr

def test_a_model_that_does_not_load_is_fallen_back_from(corpus, tmp_path, monkeypatch):
    (make_bert(tmp_path/'broken')/'model.safetensors').write_bytes(b'cut off')
    monkeypatch.setitem(PROFILES, 'two', dict.fromkeys(('code', 'docs', 'other'), [str(tmp_path/'broken'), 'all-MiniLM-L6-v2']))
    s = embed_corpus(corpus, tmp_path/'out', profile='two').summary
    assert (s['model'], s['models'][0]['fallback_from']) == ('all-MiniLM-L6-v2', str(tmp_path/'broken')) and 'cut off' in s['models'][0]['fallback_reason']

def test_pickles_are_refused(corpus, tmp_path):
    folder = make_bert(tmp_path/'pickled')
    (folder/'model.safetensors').rename(folder/'pytorch_model.bin')
    p = run_cli(corpus, '--out', tmp_path/'out', '--profile', folder)
    assert p.returncode == 2 and 'pickled weights only' in p.stderr

def test_stop_after_stops_and_goes_on(subset, tiny, tmp_path):
    p = run_cli(subset, '--out', tmp_path, '--profile', tiny, '--stop_after', '0.0001')
    assert p.returncode == 0 and 'goes on from there' in p.stderr and not (tmp_path/'subset_embeddings.jsonl').exists()
    p = run_cli(subset, '--out', tmp_path, '--profile', tiny)
    assert p.returncode == 0 and (tmp_path/'subset_embeddings.jsonl').exists()

def test_a_folder_is_chunked_and_embedded(tmp_path, tiny):
    src = tmp_path/'src'
    (src/'lib').mkdir(parents=True)
    (src/'lib/a.py').write_text('def f(x):\n    return x + 1\n\n' * 200)
    (src/'README.md').write_text('# Title\n\nSome prose.\n\n## Part\n\nMore of it.\n')
    p = run_cli(src, tmp_path/'tree', '--size', 64, command='coderank_chunk', module='chunking')
    assert p.returncode == 0, p.stderr
    p = run_cli(tmp_path/'tree', '--out', tmp_path/'out', '--profile', tiny, '--parquet')
    assert p.returncode == 0, p.stderr
    ids = [json.loads(l)['id'] for l in open(tmp_path/'out/tree_embeddings.jsonl')]
    assert 'tree:lib:a.py:chunk:0' in ids and 'tree:.:README.md:chunk:0' in ids and (tmp_path/'out/tree_embeddings.parquet').exists()

def test_content_routing_moves_code_in_docs(tmp_path, tiny):
    write_file(tmp_path/'c', 'docs/a_chunks.json', ['```python\nimport os\nos.getcwd()\n```', 'prose only'], 'a.md')
    types = {r: [json.loads(l)['metadata']['content_type'] for l in embed_corpus(tmp_path/'c', tmp_path/r, profile=str(tiny), routing=r).jsonl.open()] for r in ('extension', 'content')}
    assert types == {'extension': ['docs', 'docs'], 'content': ['code', 'docs']}

def test_text_of_a_corpus_is_escaped(tmp_path):
    evil = '<script>alert(1)</script>'
    write_file(tmp_path/evil.replace('/', ''), 'docs/<img src=x onerror=alert(1)>_chunks.json', [evil, ''], '<b>.md')
    c = read_corpus(tmp_path/evil.replace('/', ''))
    run = embed_corpus(c.root, tmp_path/'out', profile='offline', dry_run=True)
    for html in c._repr_html_(), run.plan._repr_html_(), run._repr_html_(): assert '<script>' not in html and '<img' not in html

def test_a_model_that_fails_its_check_is_fallen_back_from(corpus, tmp_path, monkeypatch):
    make_bert(tmp_path/'models/CodeRankEmbed')  # 32 numbers instead of 768: found, loaded, refused
    monkeypatch.setitem(PROFILES, 'two', dict.fromkeys(('code', 'docs', 'other'), ['CodeRankEmbed', 'all-MiniLM-L6-v2']))
    s = embed_corpus(corpus, tmp_path/'out', profile='two', models_dir=tmp_path/'models').summary
    assert (s['model'], s['models'][0]['fallback_from']) == ('all-MiniLM-L6-v2', 'CodeRankEmbed') and 'its card says 768' in s['models'][0]['fallback_reason']
