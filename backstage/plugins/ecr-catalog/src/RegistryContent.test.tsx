import type { Entity } from '@backstage/catalog-model';
import { renderInTestApp } from '@backstage/frontend-test-utils';
import { EntityProvider, entityRouteRef } from '@backstage/plugin-catalog-react';
import { renderInTestApp as renderInOldTestApp } from '@backstage/test-utils';
import { act, screen, waitFor, within } from '@testing-library/react';
import userEvent from '@testing-library/user-event';
import type { ReactElement } from 'react';

import { EcrCatalogCard, EcrCatalogContent } from './legacy';
import { entityPastTheLimit, entityWith, pipelineEntity } from './testEntities';

const SHOP = [
  { name: 'shop/cart', owner: 'shop', risk: 'high', status: 'active', uri: 'host/shop/cart' },
  { name: 'shop/old', owner: 'shop', risk: 'low', status: 'deprecated', uri: 'host/shop/old' },
  { name: 'ops/runner', owner: 'ops', risk: 'medium', status: 'active', uri: 'host/ops/runner' },
];
const ROUTES = {
  mountedRoutes: { '/catalog/:namespace/:kind/:name': entityRouteRef },
};

type Render = (element: ReactElement) => unknown;
const SYSTEMS: [string, Render][] = [
  ['new', element => renderInTestApp(element, ROUTES)],
  ['old', element => renderInOldTestApp(element, ROUTES)],
];

describe.each(SYSTEMS)('in the %s frontend system', (_, render) => {
  async function show(entity: Entity, element = <EcrCatalogContent />) {
    await act(async () => {
      await render(<EntityProvider entity={entity}>{element}</EntityProvider>);
    });
    await screen.findAllByText('Container registry');
  }

  test('the tab lists what the pipeline published, pending ones apart', async () => {
    const entity = pipelineEntity();
    await show(entity);

    const [live, pending] = screen.getAllByRole('table');
    expect(namesIn(live!)).toEqual(namesOf(entity.spec!.repositories));
    expect(namesIn(pending!)).toEqual(namesOf(entity.spec!.pending));
  });

  test('the card has counts, times, commit and digest, and leads to the tab', async () => {
    const entity = pipelineEntity();
    const { annotations } = entity.metadata;
    annotations!['backstage.io/managed-by-location'] =
      'url:https://github.com/example/platform/blob/main/a.yaml';
    await show(entity, <EcrCatalogCard />);

    expect(factNamed('Live')).toHaveTextContent(annotations!['platform/repo-count']!);
    expect(factNamed('Pending')).toHaveTextContent(annotations!['platform/pending-count']!);
    expect(factNamed('Ghosts')).toHaveTextContent(annotations!['platform/ghost-count']!);
    expect(factNamed('Orphans')).toHaveTextContent(annotations!['platform/orphan-count']!);
    expect(factNamed('Content last changed')).toHaveTextContent(
      annotations!['platform/last-sync']!.replace('T', ' ').replace('Z', ' UTC'),
    );
    expect(factNamed('Content digest')).toHaveTextContent(
      annotations!['platform/content-digest']!.slice(0, 19),
    );
    const sha = annotations!['platform/source-sha']!;
    expect(within(factNamed('Governance commit')).getByRole('link')).toHaveAttribute(
      'href',
      `https://github.com/example/platform/commit/${sha}`,
    );
    expect(screen.getByRole('link', { name: /^Repositories/ })).toHaveAttribute(
      'href',
      `/catalog/default/resource/${entity.metadata.name}/repositories`,
    );
  });

  test('an owner leads to its Group', async () => {
    await show(entityWith(SHOP));

    expect(screen.getByRole('link', { name: 'ops' })).toHaveAttribute(
      'href',
      '/catalog/default/group/ops',
    );
  });

  test('a registry past the limit shows its summary and leads to the full list', async () => {
    await show(entityPastTheLimit({ url: 'https://example.com/list.jsonl', count: 12000 }));

    expect(screen.getByText('Live by owner')).toBeVisible();
    expect(screen.getByText('Live by environment')).toBeVisible();
    expect(screen.getByText('9000')).toBeVisible();
    const list = within(factNamed('Full list'));
    expect(list.getByRole('link')).toHaveAttribute('href', 'https://example.com/list.jsonl');
    expect(list.getByText(/12000 repositories/)).toBeVisible();
    expect(screen.queryByText(/^Repositories \(/)).toBeNull();
  });

  test('nothing hostile becomes markup or the address of a script', async () => {
    const markup = '<img src=x onerror=alert(1)><script>alert(1)</script>';
    const script = 'javascript:alert(1)';
    const lines = [markup, script].map(text => ({
      name: text,
      owner: text,
      risk: text,
      environment: text,
      status: text,
      uri: text,
      requested: text,
    }));
    const entity = entityWith(lines, lines);
    entity.spec!.listed = { url: script, path: markup, digest: markup };
    for (const key of Object.keys(entity.metadata.annotations!)) {
      entity.metadata.annotations![key] = key.length % 2 ? markup : script;
    }
    await show(entity);

    expect(screen.getAllByText(markup).length).toBeGreaterThanOrEqual(10);
    const { body } = document;
    expect(body.querySelectorAll('img, script, iframe')).toHaveLength(0);
    const addresses = [...body.querySelectorAll('[href], [src]')].map(
      each => each.getAttribute('href') ?? each.getAttribute('src')!,
    );
    expect(addresses.filter(address => !/^(?:\/|https?:)/.test(address))).toEqual([]);
  });

  test('says so when the digest is missing', async () => {
    const entity = entityWith(SHOP);
    delete entity.metadata.annotations!['platform/content-digest'];
    delete entity.metadata.annotations!['platform/last-sync'];
    await show(entity);

    expect(factNamed('Content digest')).toHaveTextContent('missing');
    expect(factNamed('Content last changed')).toHaveTextContent('unknown');
  });
});

describe('the table', () => {
  async function show(entity: Entity) {
    renderInTestApp(
      <EntityProvider entity={entity}>
        <EcrCatalogContent />
      </EntityProvider>,
      ROUTES,
    );
    await screen.findByText(/^Repositories \(/);
    return userEvent.setup();
  }

  test('is sorted by name, and by risk from low to high and back', async () => {
    const user = await show(entityWith(SHOP));
    expect(names()).toEqual(['ops/runner', 'shop/cart', 'shop/old']);

    await user.click(within(liveTable()).getByText('Risk'));
    expect(names()).toEqual(['shop/old', 'ops/runner', 'shop/cart']);
    await user.click(within(liveTable()).getByText('Risk'));
    expect(names()).toEqual(['shop/cart', 'ops/runner', 'shop/old']);
  });

  test('shows what is searched for', async () => {
    const user = await show(entityWith(SHOP));

    await user.type(screen.getAllByPlaceholderText('Search')[0]!, 'runn');

    await waitFor(() => expect(names()).toEqual(['ops/runner']));
  });

  test('is filtered by owner, risk and status', async () => {
    const user = await show(entityWith(SHOP));

    await choose(user, 'filter-owner', 'shop');
    expect(names()).toEqual(['shop/cart', 'shop/old']);
    await choose(user, 'filter-status', 'deprecated');
    expect(names()).toEqual(['shop/old']);
    await choose(user, 'filter-risk', 'high');
    expect(screen.getByText('Repositories (0)')).toBeVisible();
  });

  test('has a button for each URI', async () => {
    await show(entityWith([...SHOP, { name: 'no-uri' }]));

    expect(screen.getByRole('button', { name: 'Copy the URI of shop/cart' })).toBeVisible();
    expect(screen.getAllByRole('button', { name: /^Copy the URI/ })).toHaveLength(3);
  });

  test('has pages past 50 repositories only', async () => {
    const many = Array.from({ length: 51 }, (_, index) => ({
      name: `repository-${String(index).padStart(3, '0')}`,
      owner: 'shop',
    }));
    const user = await show(entityWith(many));
    expect(names()).toHaveLength(50);

    await user.click(screen.getByRole('button', { name: /next page/i }));

    expect(names()).toEqual(['repository-050']);
  });

  test('has no pages at 50 repositories', async () => {
    const many = Array.from({ length: 50 }, (_, index) => ({ name: `r-${index}` }));
    await show(entityWith(many));

    expect(names()).toHaveLength(50);
    expect(screen.queryByRole('button', { name: /next page/i })).toBeNull();
  });
});

function factNamed(label: string): HTMLElement {
  return screen.getByText(label, { selector: 'dt' }).nextElementSibling as HTMLElement;
}

function liveTable(): HTMLElement {
  return screen.getAllByRole('table')[0]!;
}

function names(): string[] {
  return namesIn(liveTable());
}

function namesIn(table: HTMLElement): string[] {
  return [...table.querySelectorAll('tbody tr td:first-child')]
    .map(cell => cell.textContent ?? '')
    .filter(Boolean);
}

function namesOf(lines: unknown): string[] {
  return (lines as { name: string }[]).map(({ name }) => name).sort();
}

async function choose(user: ReturnType<typeof userEvent.setup>, filter: string, value: string) {
  await user.click(within(screen.getByTestId(filter)).getByRole('button'));
  await user.click(within(await screen.findByRole('listbox')).getByText(value));
  await user.keyboard('{Escape}');
  await waitFor(() => expect(screen.queryByRole('listbox')).toBeNull());
}
