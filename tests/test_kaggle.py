"The Kaggle notebook in a made-up Kaggle: the corpus under one of its mounts, a batch session."
import json, os, subprocess, sys
from pathlib import Path
import pytest
from conftest import ROOT, summary_of, write_file

def executed(nb, cwd, env):
    "Run a notebook as a batch session does; returns the executed notebook."
    code = 'import sys, nbformat; from execute import execute; nbformat.write(execute(sys.argv[1], sys.argv[2]), sys.argv[3])'
    out = Path(cwd)/'executed.ipynb'
    p = subprocess.run([sys.executable, '-c', code, nb, cwd, out], env={**os.environ, **env, 'PYTHONPATH': f'{ROOT/"nbs/_site"}'}, capture_output=True, text=True, timeout=900)
    return p, json.loads(out.read_text()) if out.exists() else None

@pytest.fixture
def notebook(tmp_path, tiny):
    "The notebook with Kaggle's two folders moved into a temporary one, and a small model in the settings."
    nb = json.loads((ROOT/'nbs/kaggle.ipynb').read_text())
    for c in nb['cells']:
        s = ''.join(c['source']).replace("'/kaggle/input'", f"'{tmp_path}/kaggle/input'").replace('find_input(CORPUS)', f"find_input(CORPUS, '{tmp_path}/kaggle/input')")
        s = s.replace("PROFILE = 'offline'", f"PROFILE = '{tiny}'").replace('work_dir()', f"Path('{tmp_path}/working')")
        c['source'] = s.splitlines(True)
    (tmp_path/'nb.ipynb').write_text(json.dumps(nb))
    return tmp_path/'nb.ipynb'

def test_runs_to_the_end_on_an_attached_corpus(notebook, tmp_path):
    root = tmp_path/'kaggle/input/datasets/ann/qdrant-ecosystem'
    for i in range(3): write_file(root, f'docs{i}/a_chunks.json', [f'text {i} {j} ' * (j + 1) for j in range(30)], 'a.md')
    (root/'docs0/broken_chunks.json').write_text('{"chunks": [')
    p, nb = executed(notebook, tmp_path, dict(KAGGLE_KERNEL_RUN_TYPE='Batch'))
    assert nb, p.stderr
    s = summary_of(tmp_path/'working/qdrant_ecosystem_embeddings', 'qdrant_ecosystem')
    assert s['account']['embedded'] == 90 and s['collection'] == 'qdrant_ecosystem' and [x['kind'] for x in s['problems']] == ['not_json']
    shown = json.dumps(nb)
    assert 'On Kaggle (Batch session)' in shown and 'broken_chunks.json' in shown and 'Smallest cosine' in shown

def test_two_corpora_of_one_name_are_an_error_in_words(notebook, tmp_path):
    for place in 'datasets/ann/qdrant-ecosystem', 'qdrant-ecosystem': write_file(tmp_path/'kaggle/input'/place, 'docs/a_chunks.json', ['x'])
    p, nb = executed(notebook, tmp_path, {})
    assert nb is None and 'in 2 places' in p.stderr
