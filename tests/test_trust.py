"Only our own code runs, whatever lies in the folders of a run."
import subprocess, sys
from pathlib import Path
import pytest
from conftest import summary_of, write_file

PLANTED = 'torch', 'queue', 'transformers', 'numpy', 'coderank_qdrant', 'sitecustomize', 'accelerate'

def plant(folder):
    "Modules under names that a worker imports; each leaves a mark when it runs."
    folder.mkdir(parents=True, exist_ok=True)
    for name in PLANTED: (folder/f'{name}.py').write_text(f"open({str(folder/'RAN')!r}, 'a').write('{name} ')\nraise SystemExit(9)\n")

@pytest.fixture
def traps(tiny, tmp_path):
    "INPUT and OUT of a run, with planted modules."
    write_file(tmp_path/'in', 'docs/a_chunks.json', [f'text number {i}' for i in range(40)], 'a.md')
    for folder in tmp_path/'in', tmp_path/'in/docs', tmp_path/'out': plant(folder)
    return tmp_path

@pytest.mark.parametrize('where', ['in', 'out'])
def test_workers_import_nothing_from_the_current_folder(where, traps, tiny):
    command = Path(sys.executable).with_name('coderank_embed')
    args = [command, traps/'in', '--out', traps/'out', '--profile', tiny, '--devices', 'cpu,cpu']
    p = subprocess.run(list(map(str, args)), cwd=traps/where, capture_output=True, text=True, timeout=300)
    assert p.returncode == 0, p.stderr
    assert summary_of(traps/'out', 'in')['total_embeddings'] == 40
    assert not list(traps.rglob('RAN'))
