"Pass the packaging metadata in settings.ini on to setuptools."
import json
from configparser import ConfigParser
from pathlib import Path
from setuptools import setup
from setuptools.command.build_py import build_py

here = Path(__file__).parent
parser = ConfigParser(delimiters='=')
parser.read(here/'settings.ini', encoding='utf-8')
cfg = parser['DEFAULT']

extras = {k.removesuffix('_requirements'): v.split() for k,v in cfg.items() if k.endswith('_requirements')}
extras['dev'] = sorted({r for rs in extras.values() for r in rs})

class build(build_py):
    "The package, and in a wheel the Kaggle notebook too, for coderank_kaggle."
    def run(self):
        super().run()
        if self.editable_mode: return
        nb = json.loads((here/'nbs/kaggle.ipynb').read_text(encoding='utf-8'))
        for cell in nb['cells']:  # the notebook carries this wheel, which cannot carry itself
            source = ''.join(cell['source'])
            if 'WHEEL_NAME =' in source and 'WHEEL_HASH =' in source:
                cell['source'] = source.partition('WHEEL_NAME =')[0]
            if cell['cell_type'] == 'code': cell['outputs'] = []
        Path(f'{self.build_lib}/{cfg["lib_path"]}/kaggle.ipynb').write_text(json.dumps(nb), encoding='utf-8')

setup(
    cmdclass=dict(build_py=build),
    name=cfg['lib_name'], version=cfg['version'], description=cfg['description'], author=cfg['author'],
    url=cfg['repository'] or None, license=cfg['license'], license_files=['LICENSE'], keywords=cfg['keywords'].split(),
    python_requires=f'>={cfg["min_python"]}',
    long_description=(here/'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    classifiers=['Development Status :: 3 - Alpha', 'Intended Audience :: Developers',
                 'Intended Audience :: Science/Research', 'Programming Language :: Python :: 3',
                 'Topic :: Scientific/Engineering :: Artificial Intelligence'],
    packages=[cfg['lib_path']], include_package_data=False, zip_safe=False,
    install_requires=cfg['requirements'].split(), extras_require=extras,
    entry_points={'console_scripts': cfg['console_scripts'].split(),
                  'nbdev': [f'{cfg["lib_path"]}={cfg["lib_path"]}._modidx:d']})
