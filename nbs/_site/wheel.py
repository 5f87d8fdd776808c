"""Put this package's own wheel into the Kaggle notebook, so that the notebook is enough by itself.

    python nbs/_site/wheel.py"""
import json, tempfile
from pathlib import Path
from coderank_qdrant.kaggle import build_wheel, carry_wheel

NOTEBOOK = Path(__file__).resolve().parents[1]/'kaggle.ipynb'

def main():
    nb = json.loads(NOTEBOOK.read_text(encoding='utf-8'))
    with tempfile.TemporaryDirectory() as folder: carry_wheel(nb, build_wheel(folder))
    NOTEBOOK.write_text(json.dumps(nb, indent=1, ensure_ascii=False, sort_keys=True) + '\n', encoding='utf-8')

if __name__ == '__main__': main()
