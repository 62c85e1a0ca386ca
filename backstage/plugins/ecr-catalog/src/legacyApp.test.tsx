import type { Entity } from '@backstage/catalog-model';
import { catalogPlugin, EntityLayout, EntitySwitch } from '@backstage/plugin-catalog';
import {
  catalogApiRef,
  EntityProvider,
  entityRouteRef,
  MockStarredEntitiesApi,
  starredEntitiesApiRef,
} from '@backstage/plugin-catalog-react';
import { catalogApiMock } from '@backstage/plugin-catalog-react/testUtils';
import { permissionApiRef } from '@backstage/plugin-permission-react';
import { mockApis, renderInTestApp, TestApiProvider } from '@backstage/test-utils';
import { screen } from '@testing-library/react';
import { EcrCatalogCard, EcrCatalogContent, isContainerRegistry } from 'backstage-plugin-ecr-catalog/legacy';

import { pipelineEntity } from './testEntities';

// What somebody's EntityPage has; deploy/backstage/README.md shows the same lines.
const entityPage = (
  <EntityLayout>
    <EntityLayout.Route path="/" title="Overview">
      <EntitySwitch>
        <EntitySwitch.Case if={isContainerRegistry} children={<EcrCatalogCard />} />
      </EntitySwitch>
    </EntityLayout.Route>
    <EntityLayout.Route path="/repositories" title="Repositories" if={isContainerRegistry} children={<EcrCatalogContent />} />
  </EntityLayout>
);

async function open(entity: Entity, path: string) {
  await renderInTestApp(
    <TestApiProvider
      apis={[
        [catalogApiRef, catalogApiMock()],
        [permissionApiRef, mockApis.permission()],
        [starredEntitiesApiRef, new MockStarredEntitiesApi()],
      ]}
    >
      <EntityProvider entity={entity}>{entityPage}</EntityProvider>
    </TestApiProvider>,
    {
      mountedRoutes: {
        '/catalog': catalogPlugin.routes.catalogIndex,
        '/catalog/:namespace/:kind/:name': entityRouteRef,
      },
      routeEntries: [path],
    },
  );
}

test('the page of a registry has the card', async () => {
  await open(pipelineEntity(), '/');
  expect(await screen.findByText('Ghosts')).toBeVisible();
});

test('the page of a registry has the tab', async () => {
  await open(pipelineEntity(), '/repositories');
  expect(await screen.findByText(/^Repositories \(/)).toBeVisible();
});

test('the page of another resource has neither', async () => {
  await open({ ...pipelineEntity(), spec: { type: 'database' } }, '/');
  expect(await screen.findByText('Overview')).toBeVisible();
  expect(screen.queryByText('Ghosts')).toBeNull();
  expect(screen.queryByText('Repositories')).toBeNull();
});
