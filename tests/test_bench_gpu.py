"The measurements that need a GPU go through on a made-up one, on small shapes."
import json, subprocess, sys
import pytest
from conftest import ROOT

@pytest.mark.slow
def test_every_step_runs_and_is_written_down(cards, tmp_path):
    p = subprocess.run([sys.executable, ROOT/'tests/bench_gpu.py', '--small', '--out', tmp_path/'measured.json'], env=cards('T4'), capture_output=True, text=True, timeout=600)
    assert p.returncode == 0, p.stderr
    facts = json.loads((tmp_path/'measured.json').read_text())
    assert [(m['model'], m['precision'], m['table']) for m in facts['models']] == [('CodeRankEmbed', 'fp16', 'device'), ('CodeRankLLM', 'fp16', 'host'), ('CodeRankLLM', 'int8', 'device')]
    assert all(len(m['memory']) == 12 and m['tokens_per_second'] > 0 and all(measured > 0 for *_, measured in m['memory']) for m in facts['models'])
    assert facts['models'][0]['two_workers'] > 0 and facts['models'][0]['ratio_to_encode'] > 0
