import { createExtensionTester, renderInTestApp } from '@backstage/frontend-test-utils';
import {
  EntityCardBlueprint,
  EntityContentBlueprint,
} from '@backstage/plugin-catalog-react/alpha';
import { EntityProvider, entityRouteRef } from '@backstage/plugin-catalog-react';
import { screen } from '@testing-library/react';

import plugin from './index';
import { pipelineEntity } from './testEntities';

const ROUTES = {
  mountedRoutes: { '/catalog/:namespace/:kind/:name': entityRouteRef },
};

test('the card is on the page of a registry, and of nothing else', async () => {
  const card = createExtensionTester(plugin.getExtension('entity-card:ecr-catalog/registry'));
  const filter = card.get(EntityCardBlueprint.dataRefs.filterFunction)!;

  expect(filter(pipelineEntity())).toBe(true);
  expect(filter({ ...pipelineEntity(), kind: 'API' })).toBe(false);
  renderInTestApp(
    <EntityProvider entity={pipelineEntity()}>{card.reactElement()}</EntityProvider>,
    ROUTES,
  );
  expect(await screen.findByText('Ghosts')).toBeVisible();
});

test('the tab is on the page of a registry, and of nothing else', async () => {
  const tab = createExtensionTester(
    plugin.getExtension('entity-content:ecr-catalog/repositories'),
  );
  const filter = tab.get(EntityContentBlueprint.dataRefs.filterFunction)!;

  expect(tab.get(EntityContentBlueprint.dataRefs.title)).toBe('Repositories');
  expect(filter(pipelineEntity())).toBe(true);
  expect(filter({ ...pipelineEntity(), spec: { type: 'database' } })).toBe(false);
  renderInTestApp(
    <EntityProvider entity={pipelineEntity()}>{tab.reactElement()}</EntityProvider>,
    ROUTES,
  );
  expect(await screen.findByText(/^Repositories \(/)).toBeVisible();
});
